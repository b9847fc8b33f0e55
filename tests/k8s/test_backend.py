"""The Kubernetes backend against a server that speaks the real paths, with every refusal."""

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import Cluster, Refusal
from submitting import begin, name_of, pod, refusal, submit, with_options

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.records import Failure, OutcomeRecord
from torchrelay.contract.storage import open_storage
from torchrelay.contract.units import NodeCount
from torchrelay_launch.backends.kubernetes import client, generations, watching
from torchrelay_launch.backends.kubernetes.backend import KubernetesBackend
from torchrelay_launch.backends.kubernetes.code import fetch
from torchrelay_launch.backends.kubernetes.participation import take_part
from torchrelay_launch.cli import main
from torchrelay_launch.planning import plan
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec, Resources
from torchrelay_launch.starting import start_attempt

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


def test_wrong_context(kubeconfig: Path, job: JobSpec, tmp_path: Path) -> None:
    said = refusal(with_options(job, context="prod"), tmp_path)
    assert "no usable context 'prod'; there is: test, other" in said


def test_no_kubeconfig(job: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    assert "set KUBECONFIG" in refusal(job, tmp_path)


def test_name_exists(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    def taken(plural: str, made: dict[str, Any]) -> None:
        if plural == "jobs":
            raise Refusal(409, f'jobs.batch "{made["metadata"]["name"]}" already exists')

    cluster.admission.append(taken)
    assert "it exists already" in refusal(job, tmp_path)


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


def test_api_that_is_away(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    cluster.away = True
    status = run_status(started.storage)
    assert status.state is RunState.PENDING
    assert "could not GET" in status.unreachable
    assert "could not POST" in refusal(job, tmp_path)
    cluster.away = False
    assert run_status(started.storage).unreachable == ""


def test_stop_while_the_api_is_away_is_seen_by_pods_that_begin(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    cluster.away = True
    assert main(["stop", started.storage.url]) == 74
    assert "pods that begin meanwhile see the request and stop by themselves" in capsys.readouterr().err
    assert generations.stopped(started.storage, 1)


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


STATES = {
    "unschedulable": (
        {
            "phase": "Pending",
            "conditions": [
                {
                    "type": "PodScheduled",
                    "status": "False",
                    "reason": "Unschedulable",
                    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                }
            ],
        },
        RunState.PENDING,
        "is not scheduled: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
    ),
    "creating": (
        {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]},
        RunState.PENDING,
        "being set up (image, volumes)",
    ),
    "image": (
        {
            "phase": "Pending",
            "containerStatuses": [
                {"state": {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "i:1"'}}}
            ],
        },
        RunState.PENDING,
        'the image cannot be pulled: Back-off pulling image "i:1"',
    ),
    "configuration": (
        {
            "phase": "Pending",
            "containerStatuses": [
                {"state": {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "s3" not found'}}}
            ],
        },
        RunState.PENDING,
        'secret "s3" not found',
    ),
    "memory": (
        {
            "phase": "Failed",
            "containerStatuses": [{"state": {"terminated": {"reason": "OOMKilled", "exitCode": 137}}}],
        },
        RunState.PENDING,
        "killed for memory: raise resources.memory",
    ),
    "crash": (
        {
            "phase": "Failed",
            "containerStatuses": [
                {"state": {"terminated": {"reason": "Error", "exitCode": 1, "message": "ImportError: no module x\n"}}}
            ],
        },
        RunState.PENDING,
        "exit code 1: ImportError: no module x",
    ),
    "evicted": (
        {
            "phase": "Failed",
            "conditions": [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}],
            "containerStatuses": [{"state": {"terminated": {"reason": "Error", "exitCode": 75}}}],
        },
        RunState.PENDING,
        "evicted",
    ),
    "evicted by the node": (
        {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."},
        RunState.PENDING,
        "evicted (The node was low on resource: memory.)",
    ),
}


@pytest.mark.parametrize("name", STATES)
def test_states_of_pods(name: str, kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    status, state, says = STATES[name]
    started = submit(job, tmp_path)
    cluster.put("pods", pod(started, **status))
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.state is state
    assert says in found.says


def test_running_is_told_from_queued(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(with_options(job, queue="team-a"), tmp_path)
    made = cluster.all("jobs")[0]
    assert made["spec"]["suspend"] is True
    cluster.put("jobs", made | {"status": {"conditions": [{"type": "Suspended", "status": "True"}]}})
    cluster.installed.add("workloads")
    owner = {"uid": made["metadata"]["uid"]}
    waits = {"type": "QuotaReserved", "status": "False", "message": "insufficient unused quota for cpu"}
    cluster.put("workloads", {"metadata": {"name": "w", "ownerReferences": [owner]}, "status": {"conditions": [waits]}})
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.says.endswith("is queued: in queue team-a, insufficient unused quota for cpu")
    cluster.put("jobs", made | {"status": {}})
    cluster.put("pods", pod(started, phase="Running"))
    begin(started)
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.state is RunState.RUNNING


def test_a_failed_job_is_explained(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    made = cluster.all("jobs")[0]
    failed = {"type": "Failed", "status": "True", "reason": "BackoffLimitExceeded", "message": "reached the limit"}
    cluster.put("jobs", made | {"status": {"conditions": [failed]}})
    cluster.put("pods", pod(started, **STATES["memory"][0]))
    status = run_status(started.storage)
    assert status.state is RunState.FAILED
    assert status.error is not None
    assert "reached the limit" in status.error
    assert "killed for memory" in status.error
    assert started.handle.poll() is None or started.handle.poll() == 137


def test_a_deleted_job_is_seen(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    cluster.objects.clear()
    error = run_status(started.storage).error
    assert error is not None
    assert "somebody deleted it" in error


def test_stop_before_it_begins_takes_it_out(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    assert main(["stop", started.storage.url]) == 0
    assert cluster.objects == {}  # the Service went with the Job
    assert run_status(started.storage).state is RunState.STOPPED


def test_stop_leaves_running_pods_to_their_supervisors(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    cluster.put("pods", pod(started, phase="Running"))
    assert main(["stop", started.storage.url, "--no-wait"]) == 0
    assert cluster.all("jobs") != []
    assert started.storage.size(layout.attempt_file(1, "stop")) is not None


def test_cancel_deletes_the_job_from_any_machine(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    cluster.put("pods", pod(started, phase="Running"))
    assert main(["cancel", started.storage.url]) == 0
    assert cluster.all("jobs") == []
    assert run_status(started.storage).state is RunState.STOPPED


def test_resume_from_a_machine_without_the_folder(
    kubeconfig: Path,
    cluster: Cluster,
    job: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    with monkeypatch.context() as there:
        there.chdir(work)
        started = submit(dataclasses.replace(job, code="snapshot"), tmp_path)
    main(["stop", started.storage.url])
    (work / "train.py").unlink()
    work.rmdir()
    assert main(["resume", started.storage.url, "--detach"]) == 0
    (made,) = cluster.all("jobs")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["command"][-2:] == ["--code", "code/a0002.tar.gz"]
    fetch(started.storage, "code/a0002.tar.gz", tmp_path / "pod")
    assert (tmp_path / "pod" / "train.py").read_text() == "print(1)"
    main(["stop", started.storage.url])
    assert main(["resume", started.storage.url, "--detach", "--workdir", str(work)]) == 78
    assert "is not on this machine" in capsys.readouterr().err


def test_resume_makes_another_job_of_the_run(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    first = submit(job, tmp_path)
    main(["stop", first.storage.url])
    what = plan(job, "kubernetes", str(tmp_path / "runs"))
    second = start_attempt(what, first.storage, 1, tethered=False)
    assert name_of(second).endswith("-a2")
    assert [one["metadata"]["name"] for one in cluster.all("jobs")] == [name_of(second)]


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (OutcomeRecord(Outcome.COMPLETED, 0, 1.0), 0),
        (OutcomeRecord(Outcome.FAILED, 78, 1.0, failure=Failure("x", 78, retryable=False)), 78),
        (OutcomeRecord(Outcome.PREEMPTED, 75, 1.0), None),
    ],
)
def test_run_waits_for_the_end_of_the_run(
    outcome: OutcomeRecord, code: int | None, kubeconfig: Path, job: JobSpec, tmp_path: Path
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    started.storage.create(layout.attempt_file(1, "outcome"), records.dump(outcome))
    assert started.handle.poll() == code


def test_the_namespace_is_remembered_for_other_machines(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    cluster.namespaces.add("vision")
    started = submit(with_options(job, namespace="vision"), tmp_path)
    assert cluster.get("jobs", name_of(started), "vision") is not None
    assert watching.observe(started.storage, 1) is not None
    KubernetesBackend().cancel(started.storage)
    assert cluster.all("jobs") == []


def test_errors_without_a_body_are_said() -> None:
    error = client.explained(418, "<html>teapot</html>", "GET", "/api/v1/namespaces/x/pods", "x")
    assert isinstance(error, ConfigError)
    assert "teapot" in str(error)


def test_an_api_group_that_is_not_there_is_no_object_that_is_not_there() -> None:
    path = "/apis/jobset.x-k8s.io/v1alpha2/namespaces/x/jobsets"
    error = client.explained(404, b"404 page not found\n", "POST", path, "x")
    assert "JobSet is not installed there; use kubernetes.kind: job" in str(error)


def test_a_policy_of_the_clusters_is_named() -> None:
    message = "ValidatingAdmissionPolicy 'owners' with binding 'all' denied request: no owner label"
    error = client.explained(422, json.dumps({"message": message}), "POST", "/apis/batch/v1/namespaces/x/jobs", "x")
    assert str(error) == f"refused by the cluster's admission: {message}"


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


def test_scale_tells_the_pods_first_and_then_the_job(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elastic = dataclasses.replace(job, resources=Resources(NodeCount(1, 4)))
    started = submit(elastic, tmp_path)
    assert main(["scale", started.storage.url, "3"]) == 0
    spec = cluster.all("jobs")[0]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (3, 3)
    assert generations.wanted_nodes(started.storage, 1) == 3
    cluster.conflicts = 2  # a controller wrote the Job's status at the same time
    assert main(["scale", started.storage.url, "2"]) == 0
    assert main(["scale", started.storage.url, "3"]) == 0
    cluster.forbidden.add(("patch", "jobs"))
    assert main(["scale", started.storage.url, "4"]) == 78
    assert "not allowed to patch jobs" in capsys.readouterr().err
    assert generations.wanted_nodes(started.storage, 1) == 3
    assert main(["scale", started.storage.url, "5"]) == 78
    assert "5 is not within 1..4" in capsys.readouterr().err


def test_a_fixed_run_is_not_scaled(
    kubeconfig: Path, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    assert main(["scale", started.storage.url, "2"]) == 78
    assert "1 is fixed; an elastic run has a range" in capsys.readouterr().err


def test_a_pod_outside_an_indexed_job_says_so(
    job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHRELAY_TERMINATION_LOG", str(tmp_path / "message"))
    monkeypatch.delenv("JOB_COMPLETION_INDEX", raising=False)
    words = ["--run", str(tmp_path), "--attempt", "1", "--job", "j", "--nodes", "1", "--coordinator", "j-0.j:29400"]
    assert take_part(words, []) == 78
    assert "JOB_COMPLETION_INDEX is not set" in (tmp_path / "message").read_text()


def test_stop_of_a_run_that_went_back_to_the_queue(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    started = submit(with_options(job, queue="team-a"), tmp_path)
    begin(started)
    outcome = OutcomeRecord(Outcome.PREEMPTED, 75, 1.0)
    started.storage.create(layout.attempt_file(1, "outcome"), records.dump(outcome))
    made = cluster.all("jobs")[0]
    cluster.put("jobs", made | {"status": {"conditions": [{"type": "Suspended", "status": "True"}]}})
    assert run_status(started.storage).state is RunState.PENDING
    assert main(["stop", started.storage.url]) == 0
    assert cluster.all("jobs") == []
    assert run_status(started.storage).state is RunState.STOPPED
