"""`torchrelay doctor --probe`: what the pod does, and what is said of pods that cannot."""

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import Cluster, Refusal

from torchrelay_launch.backends.kubernetes import probe, probing
from torchrelay_launch.cli import main

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the client's own
    pytest.mark.usefixtures("kubeconfig"),
    pytest.mark.timeout(60),
]
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A job of eight GPUs on four nodes, whose pods the tests run as processes."""
    options = {
        "image": "i:1",
        "python": sys.executable,
        "volumes": [{"name": "runs", "mount": str(tmp_path), "claim": "runs"}],
        "devices": {"rdma/hca": 2},
        "create_secret": True,
    }
    job = {"name": "j", "script": "train.py", "backend": "kubernetes", "kubernetes": options, "secrets": ["TOKEN"]}
    job["resources"] = {"nodes": 4, "gpus_per_node": 8}
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


@contextlib.contextmanager
def kubelet(cluster: Cluster, start: Callable[[dict[str, Any]], dict[str, Any]]) -> Iterator[None]:
    """Gives the first Job of the cluster a pod, with the status that `start` returns."""
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            with cluster.lock:
                jobs = cluster.all("jobs")
            if jobs:
                template = jobs[0]["spec"]["template"]
                made = {"metadata": {"name": "probe-0-x", "labels": template["metadata"]["labels"]}}
                cluster.put("pods", made | {"spec": {"nodeName": "node-7"}, "status": start(template["spec"])})
                return
            time.sleep(0.02)

    thread = threading.Thread(target=run)
    thread.start()
    yield
    stop.set()
    thread.join()


def ran(pod: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """The status of a pod whose command was run here, where its name is `name`."""
    (container,) = pod["containers"]
    command, message = list(container["command"]), folder / "message"
    command[command.index("--name") + 1] = name
    environment = {"TORCHRELAY_TERMINATION_LOG": str(message), "TORCHRELAY_POD_IP": "127.0.0.1"}
    environment["PYTHONPATH"] = f"{ROOT}/src:{ROOT}/launcher"
    done = subprocess.run(command, env=environment, check=False, capture_output=True)
    ended = {"exitCode": done.returncode, "message": message.read_text()}
    return {"phase": "Succeeded", "containerStatuses": [{"name": "train", "state": {"terminated": ended}}]}


def diagnose(spec: Path, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code of `doctor --probe`, and its findings about the pod."""
    capsys.readouterr()
    code = main(["doctor", str(spec), "--probe", "--json", "--set", "code=live", *words])
    return code, {one["what"]: one for one in json.loads(capsys.readouterr().out) if one["what"].startswith("pod")}


def test_a_pod_like_the_jobs_looks_around_and_is_gone(
    cluster: Cluster, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN", "very-secret")
    seen: list[dict[str, Any]] = []

    def run(pod: dict[str, Any]) -> dict[str, Any]:
        seen.append(pod["containers"][0])
        return ran(pod, tmp_path, "localhost")

    with kubelet(cluster, run):
        _, found = diagnose(spec, capsys, "--storage", str(tmp_path / "runs"))
    assert found["pod"]["says"] == "pod probe-0-x looked around on node node-7"
    assert {what for what, one in found.items() if one["ok"]} == {
        "pod",
        "pod image",
        "pod dns",
        "pod storage",
        "pod disk",
    }
    assert found["pod dns"]["says"] == "localhost is 127.0.0.1, ::1" or found["pod dns"]["says"].endswith("127.0.0.1")
    assert found["pod storage"]["says"] == f"{tmp_path}/runs: written, read and deleted"
    assert list((tmp_path / "runs").iterdir()) == []
    assert seen[0]["resources"] == probing.RESOURCES  # neither GPUs nor devices are waited for
    assert cluster.objects.keys() == {("training", "pods", "probe-0-x")}  # Job, Service and Secret have gone


def test_what_a_pod_lacks_is_said(
    cluster: Cluster, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN", "very-secret")
    monkeypatch.setattr(probe, "DNS_S", 0.0)
    monkeypatch.setenv("TORCHRELAY_TERMINATION_LOG", str(tmp_path / "message"))
    (tmp_path / "file").write_text("")

    def unknown(*_arguments: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    words = ["--storage", str(tmp_path / "file" / "runs"), "--name", "j-0.j", "--writable", str(tmp_path / "none")]
    assert probe.main(words) == 1
    found = {one["what"]: one["says"] for one in map(json.loads, (tmp_path / "message").read_text().splitlines())}
    assert found["pod dns"] == "j-0.j is not known: Name or service not known; this pod is without an address"
    assert "is a file" in found["pod storage"]
    assert found["pod disk"].startswith(f"{tmp_path}/none cannot be written")


NO_MODULE = {"exitCode": 1, "reason": "Error", "message": "No module named torchrelay_launch"}
FAILING = {
    "image": (
        "Pending",
        {"state": {"waiting": {"reason": "ErrImagePull", "message": "manifest unknown"}}},
        "none could look around: pod probe-0-x: the image cannot be pulled: manifest unknown",
    ),
    "no torchrelay": (
        "Failed",
        {"name": "train", "state": {"terminated": NO_MODULE}},
        "No module named torchrelay_launch; it could not look around: is this torchrelay in the image?",
    ),
}


@pytest.mark.parametrize("name", FAILING)
def test_pods_that_cannot_look_around(
    name: str,
    cluster: Cluster,
    spec: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TOKEN", "very-secret")
    phase, status, says = FAILING[name]
    with kubelet(cluster, lambda _: {"phase": phase, "containerStatuses": [status]}):
        code, found = diagnose(spec, capsys, "--storage", str(tmp_path / "runs"))
    assert code == 78
    assert says in found["pod"]["says"]
    assert cluster.all("jobs") == []


def test_a_pod_that_is_not_made_is_not_waited_for_for_ever(
    cluster: Cluster, spec: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN", "very-secret")
    monkeypatch.setattr(probing, "LIMIT_S", 1.5)

    def exceeded(_method: str, path: str) -> None:
        for made in cluster.all("jobs") if path.endswith("/pods") else []:
            about = {"involvedObject": {"name": made["metadata"]["name"]}, "type": "Warning"}
            cluster.put("events", {"metadata": {"name": "e"}, "message": "exceeded quota: gpus"} | about)

    cluster.interventions.append(exceeded)
    code, found = diagnose(spec, capsys, "--storage", str(tmp_path / "runs"))
    assert code == 78
    assert "the quota of namespace training does not allow its pods: exceeded quota: gpus" in found["pod"]["says"]


def test_a_probe_that_is_refused_is_a_finding(
    cluster: Cluster, spec: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TOKEN", "very-secret")

    def refuse(_plural: str, _made: dict[str, Any]) -> None:
        raise Refusal(400, "admission webhook denied the request: no owner label")

    cluster.admission.append(refuse)
    code, found = diagnose(spec, capsys, "--storage", "s3://bucket/runs")
    assert code == 78
    assert "no owner label" in found["pod"]["says"]
    assert cluster.objects == {}
    assert main(["doctor", "--on", "kubernetes", "--probe"]) == 78
    assert "name the job's spec" in capsys.readouterr().err
