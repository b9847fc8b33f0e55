"""k8s/rbac.yaml: all that the launcher asks the API for is in it, and nothing else."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import GROUPS, Cluster
from submitting import begin, pod, submit, with_options

from torchrelay.contract.units import NodeCount
from torchrelay_launch.backends.kubernetes import probing
from torchrelay_launch.cli import main
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec, Resources

pytestmark = [pytest.mark.filterwarnings("ignore::DeprecationWarning"), pytest.mark.timeout(60)]  # of the client's own
RBAC = Path(__file__).resolve().parents[2] / "k8s" / "rbac.yaml"
Right = tuple[str, str, str]  # API group, resource, verb


def allowed() -> set[Right]:
    rules = next(yaml.safe_load_all(RBAC.read_text()))["rules"]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def asked(calls: list[tuple[str, str]]) -> set[Right]:
    """What the requests within the namespace needed."""
    found = set()
    for method, path in calls:
        if "/namespaces/training/" not in path:
            continue
        plural, *rest = path.split("/namespaces/training/")[1].split("/")
        verbs = {"GET": "get" if rest else "list", "POST": "create", "DELETE": "delete", "PATCH": "patch"}
        resource = "/".join([plural, *rest[1:]])
        found.add((GROUPS.get(plural, ""), resource, verbs[method]))
    return found


def test_everything_that_is_asked_for_and_nothing_else(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "x")
    monkeypatch.setattr(probing, "LIMIT_S", 0.1)
    cluster.installed |= {"workloads", "localqueues"}
    job = dataclasses.replace(job, secrets=["TOKEN"], resources=Resources(NodeCount(1, 4)))
    job = with_options(job, create_secret=True, queue="team-a")
    for kind in ("job", "jobset", "trainjob"):
        nodes = Resources(NodeCount(1, 4 if kind == "job" else 1))
        live(dataclasses.replace(with_options(job, kind=kind), resources=nodes), cluster, tmp_path)
    spec = tmp_path / "job.yaml"
    options = {"image": "i:1", "queue": "team-a", "volumes": [{"name": "r", "mount": str(tmp_path), "claim": "r"}]}
    spec.write_text(yaml.safe_dump({"name": "j", "script": "t.py", "backend": "kubernetes", "kubernetes": options}))
    main(["doctor", str(spec), "--probe", "--storage", str(tmp_path / "runs")])
    assert asked(cluster.calls) == allowed()


def live(job: JobSpec, cluster: Cluster, tmp_path: Path) -> None:
    """All that can happen to a run."""
    started = submit(job, tmp_path)
    plural = {"job": "jobs", "jobset": "jobsets", "trainjob": "trainjobs"}[job.kubernetes.kind]
    made = cluster.all(plural)[0]
    cluster.put(plural, made | {"status": {"conditions": [{"type": "Suspended", "status": "True"}]}})
    run_status(started.storage)
    cluster.put(plural, made)
    ended: dict[str, Any] = {"exitCode": 1, "reason": "Error", "finishedAt": "2026-11-21T10:15:00Z"}
    statuses = [{"name": "train", "state": {"terminated": ended}}]
    cluster.put("pods", pod(started, phase="Failed", containerStatuses=statuses))
    begin(started)
    assert main(["logs", started.storage.url]) == 0
    if job.kubernetes.kind == "job":
        assert main(["scale", started.storage.url, "2"]) == 0
    assert main(["cancel", started.storage.url]) == 0


def test_doctor_looks_at_the_same_rights(
    kubeconfig: Path, cluster: Cluster, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything that is allowed is missed when it is not; what only doctor needs, it says by itself."""
    spec = tmp_path / "job.yaml"
    missed = set()
    for kind in ("job", "jobset", "trainjob"):
        options = {"image": "i:1", "kind": kind, "queue": "team-a", "create_secret": True}
        spec.write_text(yaml.safe_dump({"name": "j", "script": "t.py", "secrets": ["T"], "kubernetes": options}))
        cluster.forbidden = {(verb, resource) for _, resource, verb in allowed()}
        assert main(["doctor", str(spec), "--on", "kubernetes"]) == 78
        for line in capsys.readouterr().out.splitlines():
            if "add the rule" in line:
                rule = yaml.safe_load(
                    line.partition("add the rule ")[2].removesuffix(" to the Role, as in k8s/rbac.yaml")
                )
                missed |= {(rule["apiGroups"][0], rule["resources"][0], verb) for verb in rule["verbs"]}
    assert missed == allowed()
