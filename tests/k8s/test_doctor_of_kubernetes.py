"""What `doctor` finds in a cluster."""

from pathlib import Path

import pytest
from api_server import Cluster

from torchrelay_launch.cli import main

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client's own


def doctor(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["doctor", "--on", "kubernetes", *words])
    return code, capsys.readouterr().out


def test_doctor(kubeconfig: Path, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(
        "name: j\nscript: train.py\nresources: {gpus_per_node: 4}\nkubernetes: {image: 'i:1', kind: jobset}\n"
    )
    code, said = doctor(capsys, str(spec))
    assert code == 0, said
    assert "ok    version    Kubernetes v1.37.0" in said
    assert "1 of 1 nodes have 4 of nvidia.com/gpu" in said
    assert "note  installed  Kueue is not installed" in said
    cluster.forbidden |= {("create", "jobs"), ("delete", "jobs"), ("list", "nodes")}
    cluster.installed.remove("jobsets")
    code, said = doctor(capsys, str(spec))
    assert code == 78
    assert 'add the rule {apiGroups: ["batch"], resources: [jobs], verbs: [create, delete]}' in said
    assert "WRONG installed  JobSet is not installed" in said
    assert "nodes may not be listed" in said
    assert cluster.all("jobs") == []


def test_doctor_asks_for_more_gpus_than_any_node_has(
    kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text("name: j\nscript: train.py\nresources: {gpus_per_node: 8}\nkubernetes: {image: 'i:1'}\n")
    code, said = doctor(capsys, str(spec))
    assert code == 78
    assert "WRONG gpus       0 of 1 nodes have 8" in said


@pytest.mark.parametrize(
    ("hard", "used", "says"),
    [
        ({"requests.nvidia.com/gpu": "8"}, {}, None),
        ({"requests.nvidia.com/gpu": "7"}, {}, "WRONG quota      team: the job needs 8 of requests.nvidia.com/gpu"),
        ({"requests.nvidia.com/gpu": "16"}, {"requests.nvidia.com/gpu": "9"}, "note  quota      team: the job needs 8"),
        ({"cpu": "8", "pods": "2", "count/jobs.batch": "1", "services": "1"}, {}, None),
        ({"cpu": "7500m"}, {}, "WRONG quota      team: the job needs 8 of cpu, and 7500m is all"),
        ({"requests.memory": "32Gi"}, {}, None),
        ({"limits.memory": "31Gi"}, {}, f"WRONG quota      team: the job needs {32 << 30} of limits.memory"),
        ({"pods": "3"}, {"pods": "2"}, "note  quota      team: the job needs 2 of pods, and 1 is left now"),
        ({"limits.cpu": "9"}, {}, "note  quota      team: pods must say their limits.cpu: resources.cpus_per_proc"),
    ],
)
def test_doctor_compares_the_quota_with_the_job(
    hard: dict[str, str],
    used: dict[str, str],
    says: str | None,
    kubeconfig: Path,
    cluster: Cluster,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = tmp_path / "job.yaml"
    wanted = "resources: {gpus_per_node: 4, nodes: 2, memory: 16GiB}"
    spec.write_text(f"name: j\nscript: train.py\n{wanted}\nkubernetes: {{image: 'i:1'}}\n")
    cluster.put("resourcequotas", {"metadata": {"name": "team"}, "spec": {}, "status": {"hard": hard, "used": used}})
    code, said = doctor(capsys, str(spec))
    found = [line for line in said.splitlines() if "quota " in line]
    assert code == (78 if says and says.startswith("WRONG") else 0), said
    assert len(found) == (2 if says else 1)
    assert says is None or found[1].startswith(says)


@pytest.mark.parametrize(
    ("each", "nodes", "says"),
    [
        (2, 2, "ok    gpus       1 of 1 nodes have 2 of nvidia.com/gpu, places for 2 pods; the job needs 2"),
        (4, 2, "note  gpus       1 of 1 nodes have 4 of nvidia.com/gpu, places for 1 pods; the job needs 2"),
    ],
)
def test_doctor_counts_the_places_for_pods(
    each: int, nodes: int, says: str, kubeconfig: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "job.yaml"
    wanted = f"resources: {{gpus_per_node: {each}, nodes: {nodes}}}"
    spec.write_text(f"name: j\nscript: train.py\n{wanted}\nkubernetes: {{image: 'i:1'}}\n")
    code, said = doctor(capsys, str(spec))
    assert code == 0
    assert says in said
