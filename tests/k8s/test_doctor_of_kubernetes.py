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
