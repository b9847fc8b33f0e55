"""A sweep on Kubernetes: a Job for each point."""

import json
from pathlib import Path

import pytest
import yaml
from api_server import Cluster, serving

from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.storage import open_storage
from torchrelay_launch.cli import main
from torchrelay_launch.runs.status import run_status

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client's own

SPEC = """\
name: {name}
script: train.py
backend: kubernetes
storage: runs
kubernetes: {{image: "i:1", volumes: [{{name: runs, mount: {mount}, claim: runs}}]}}
sweep: {{grid: {{env.A: [x, y]}}, at_once: 1}}
"""


def test_every_point_is_a_job_and_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = Cluster()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHRELAY_STORAGE", raising=False)
    Path("job.yaml").write_text(SPEC.format(name="j" * 40, mount=json.dumps(str(tmp_path))))
    with serving(cluster) as url:
        config = {
            "current-context": "test",
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "users": [{"name": "ada", "user": {"token": "good"}}],
            "contexts": [{"name": "test", "context": {"cluster": "c", "user": "ada", "namespace": "training"}}],
        }
        Path("kubeconfig").write_text(yaml.safe_dump(config))
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        assert main(["submit", "job.yaml"]) == 0
        captured = capsys.readouterr()
        assert "sweep.at_once: has no effect on kubernetes" in captured.err
        jobs = cluster.all("jobs")
        assert len({job["metadata"]["name"] for job in jobs}) == 2
        assert len({job["metadata"]["labels"]["torchrelay/run"] for job in jobs}) == 2
        sweep = captured.out.strip()
        for number, value in ((1, "x"), (2, "y")):
            status = run_status(open_storage(f"{sweep}-00{number}"))
            assert (status.state, status.values) == (RunState.PENDING, {"env.A": value})
        assert main(["cancel", sweep]) == 0
        assert "2 stopped" in capsys.readouterr().out
        assert cluster.all("jobs") == []
