"""The Kubernetes backend against a server that speaks the real paths, with every refusal."""

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import Cluster, Refusal
from api_statuses import exists
from submitting import name_of, pod_argv, refusal, submit, with_options

from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.storage import open_storage
from torchrelay_launch.backends.kubernetes import client, generations
from torchrelay_launch.backends.kubernetes.code import fetch
from torchrelay_launch.backends.kubernetes.participation import take_part
from torchrelay_launch.cli import main
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client's own


def test_submit_creates_what_render_shows(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    (made,) = cluster.all("jobs")
    (service,) = cluster.all("services")
    assert made["metadata"]["name"] == service["metadata"]["name"] == name_of(started)
    assert service["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert made["metadata"]["namespace"] == "training"
    status = run_status(started.storage)
    assert (status.backend, status.backend_id, status.state) == ("kubernetes", name_of(started), RunState.PENDING)


def test_secrets_go_from_the_shell_to_a_secret_and_nowhere_else(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "very-secret")
    job = with_options(dataclasses.replace(job, secrets=["TOKEN"]), create_secret=True)
    started = submit(job, tmp_path)
    (secret,) = cluster.all("secrets")
    assert base64.b64decode(secret["data"]["TOKEN"]) == b"very-secret"
    assert secret["metadata"]["ownerReferences"][0]["name"] == name_of(started)
    assert "very-secret" not in json.dumps([cluster.all("jobs"), cluster.all("services")])
    for path in Path(started.storage.url).rglob("*"):
        assert path.is_dir() or b"very-secret" not in path.read_bytes()
    monkeypatch.delenv("TOKEN")
    assert "not set in this shell: TOKEN" in refusal(job, tmp_path)


def test_the_code_snapshot_lies_with_the_run(
    kubeconfig: Path, job: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    monkeypatch.chdir(work)
    started = submit(dataclasses.replace(job, code="snapshot"), tmp_path)
    fetch(started.storage, "code/a0001.tar.gz", tmp_path / "pod")
    assert (tmp_path / "pod" / "train.py").read_text() == "print(1)"


@pytest.mark.parametrize(("verb", "plural", "group"), [("create", "jobs", "batch"), ("create", "services", "")])
def test_forbidden(
    verb: str, plural: str, group: str, kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    cluster.forbidden.add((verb, plural))
    said = refusal(job, tmp_path)
    assert f"not allowed to {verb} {plural} in namespace training" in said
    assert f'{{apiGroups: ["{group}"], resources: [{plural}], verbs: [{verb}]}}' in said
    assert cluster.all("jobs") == []  # nothing is left behind


def test_expired_token(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    cluster.token = "another"
    assert "log in to the cluster again" in refusal(job, tmp_path)


def test_no_such_namespace(kubeconfig: Path, job: JobSpec, tmp_path: Path) -> None:
    assert "there is no namespace 'moon' in this cluster" in refusal(with_options(job, namespace="moon"), tmp_path)


def test_a_namespace_that_is_being_deleted(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    cluster.terminating.add("training")
    assert "namespace training because it is being terminated" in refusal(job, tmp_path)


def test_wrong_context(kubeconfig: Path, job: JobSpec, tmp_path: Path) -> None:
    said = refusal(with_options(job, context="prod"), tmp_path)
    assert "no usable context 'prod'; there is: test, other" in said


def test_no_kubeconfig(job: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert "set KUBECONFIG" in refusal(job, tmp_path)


def test_name_exists(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    def taken(plural: str, made: dict[str, Any]) -> None:
        if plural == "jobs":
            raise exists(plural, made["metadata"]["name"])

    cluster.admission.append(taken)
    assert '-a1" already exists; `torchrelay status` shows' in refusal(job, tmp_path)


@pytest.mark.parametrize(
    ("code", "message", "says"),
    [
        (403, 'jobs.batch "j" is forbidden: exceeded quota: compute, requested: cpu=8, used: cpu=4', "the quota of"),
        (
            400,
            'admission webhook "policy.example" denied the request: no owner label',
            "refused by the cluster's admission",
        ),
        (500, 'failed calling webhook "policy.example": connection refused', "refused by the cluster's admission"),
    ],
)
def test_quota_and_webhooks(
    code: int, message: str, says: str, kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    def refuse(plural: str, _made: dict[str, Any]) -> None:
        raise Refusal(code, message)

    cluster.admission.append(refuse)
    said = refusal(job, tmp_path)
    assert says in said
    assert message in said


def test_jobset_that_is_not_installed(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    cluster.installed.remove("jobsets")
    assert "JobSet is not installed there; use kubernetes.kind: job" in refusal(
        with_options(job, kind="jobset"), tmp_path
    )


def test_an_attempt_that_was_refused_has_failed(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    cluster.forbidden.add(("create", "jobs"))
    refusal(job, tmp_path)
    (run,) = (tmp_path / "runs").iterdir()
    status = run_status(open_storage(str(run)))
    assert status.state is RunState.FAILED
    assert status.error is not None
    assert "not allowed to create jobs" in status.error


def test_dry_run_on_the_server(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "job.yaml"
    spec.write_text(
        yaml.safe_dump(
            {
                "name": "j",
                "script": "train.py",
                "code": "live",
                "backend": "kubernetes",
                "kubernetes": {"image": "i:1", "volumes": [{"name": "r", "mount": str(tmp_path), "claim": "r"}]},
            }
        )
    )
    words = ["submit", str(spec), "--storage", str(tmp_path / "runs"), "--dry-run=server"]
    assert main(words) == 0
    assert "would be created: Job run-id-a1 in namespace training" in capsys.readouterr().out
    assert cluster.all("jobs") == []
    assert not (tmp_path / "runs").exists()
    patch = '[{"spec":{"template":{"spec":{"restartPolicy":"OnFailure"}}}}]'
    assert main([*words, "--set", f"kubernetes.patch={patch}"]) == 78
    assert "podFailurePolicy needs restartPolicy Never" in capsys.readouterr().err
    assert main([*words, "--on", "local"]) == 78


def test_errors_without_a_body_are_said() -> None:
    error = client.explained(418, "<html>teapot</html>", "GET", "/api/v1/namespaces/x/pods", "x")
    assert isinstance(error, ConfigError)
    assert "teapot" in str(error)


def test_an_api_group_that_is_not_there_is_no_object_that_is_not_there() -> None:
    path = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/x/jobsets"
    error = client.explained(404, b"404 page not found\n", "POST", path, "x")
    assert "JobSet is not installed there; use kubernetes.kind: job" in str(error)


def test_what_is_invalid_is_said_without_the_servers_memory() -> None:
    value = "core.SecurityContext{Privileged:(*bool)(0xc004aa678a), RunAsUser:(*int64)(nil)}"
    why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"
    field = "spec.template.spec.containers[0].securityContext"
    causes = [
        {"reason": "FieldValueInvalid", "message": f"Invalid value: {value}: {why}", "field": field},
        {"reason": "FieldValueRequired", "message": 'Required value: valid values: "Never"', "field": "spec.x"},
    ]
    details = {"name": "j", "group": "batch", "kind": "Job", "causes": causes}
    message = f'Job.batch "j" is invalid: [{field}: Invalid value: {value}: {why}, spec.x: Required value]'
    body = json.dumps({"message": message, "reason": "Invalid", "details": details})
    error = client.explained(422, body, "POST", "/apis/batch/v1/namespaces/x/jobs", "x")
    says = f'Job j is invalid: {field}: {why}; spec.x: Required value: valid values: "Never"'
    assert str(error) == f"the Kubernetes API refuses this: {says}"


def test_a_policy_of_the_clusters_is_named() -> None:
    message = "ValidatingAdmissionPolicy 'owners' with binding 'all' denied request: no owner label"
    error = client.explained(422, json.dumps({"message": message}), "POST", "/apis/batch/v1/namespaces/x/jobs", "x")
    assert str(error) == f"refused by the cluster's admission: {message}"


def test_a_pod_outside_an_indexed_job_says_so(
    job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHRELAY_TERMINATION_LOG", str(tmp_path / "message"))
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    assert take_part(pod_argv(str(tmp_path)), []) == 78
    assert "JOB_COMPLETION_INDEX is not set" in (tmp_path / "message").read_text()


def test_a_pod_that_may_not_write_does_not_wait(
    job: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kubeconfig: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder is somebody else's: the pod would hold its GPUs until `kubernetes.join` is over, and say nothing."""
    started = submit(job, tmp_path)

    def denied(*_: object) -> None:
        raise StorageError(f"cannot write {tmp_path}: Permission denied") from PermissionError(13, "Permission denied")

    monkeypatch.setattr(generations, "write_begin", denied)
    monkeypatch.setenv("TORCHRELAY_TERMINATION_LOG", str(tmp_path / "message"))
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "0")
    assert take_part(pod_argv(started.storage.url, started.handle.backend_id), []) == 78
    assert "Permission denied; pods run as user" in (tmp_path / "message").read_text()
