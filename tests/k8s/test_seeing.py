"""What a user sees of a run on Kubernetes: why it waits, what crashed pods printed, and an API that comes and goes."""

import dataclasses
import threading
import time
from pathlib import Path

import pytest
from api_server import Cluster, Refusal
from seeing import WAITING_TO_MOUNT, crashed, shown, warn
from submitting import begin, name_of, pod, submit, with_options

from torchrelay.contract import layout, records
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.records import Failure, OutcomeRecord
from torchrelay_launch import afar
from torchrelay_launch.backends.kubernetes import watching
from torchrelay_launch.cli import main
from torchrelay_launch.display.lines import status_line
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the client's own
    pytest.mark.usefixtures("kubeconfig"),
    pytest.mark.timeout(60),
]


@pytest.mark.parametrize(
    ("message", "says"),
    [
        (
            'Error creating: pods "j-0-x" is forbidden: exceeded quota: gpus, requested: limits.nvidia.com/gpu=8',
            "1 of 1 pods are missing: the quota of namespace training does not allow its pods: Error creating",
        ),
        ('Error creating: pods "j-0-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot', "PodSec"),
        (
            'Error creating: admission webhook "policy.example" denied the request: no owner',
            "admission refuses its pods",
        ),
    ],
)
def test_pods_that_are_not_made(
    message: str, says: str, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Quotas and admission refuse pods, not the Job: only its events say so."""
    started = submit(job, tmp_path)
    warn(cluster, name_of(started), "something else", at="2026-11-21T10:15:00Z")
    warn(cluster, name_of(started), message)
    assert run_status(started.storage).state is RunState.PENDING
    assert says in shown(started, capsys, "status")


def test_a_pod_that_pulls_its_image(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For which a waiting container has no reason: it is being created, and only an event says what it waits for."""
    started = submit(job, tmp_path)
    made = pod(started, **WAITING_TO_MOUNT)
    cluster.put("pods", made)
    said = {"type": "Normal", "reason": "Pulling"}
    warn(cluster, made["metadata"]["name"], 'Pulling image "i:1"', **said)
    assert 'pulling the image: Pulling image "i:1"' in shown(started, capsys, "status")
    said["reason"] = "Pulled"
    warn(cluster, made["metadata"]["name"], "Successfully pulled image", at="2026-11-21T10:17:00Z", **said)
    assert "pulling the image" not in shown(started, capsys, "status")


def test_a_running_run_says_how_long_it_still_takes(job: JobSpec, tmp_path: Path) -> None:
    status = dataclasses.replace(run_status(submit(job, tmp_path).storage), step=50, total_steps=100)
    running = dataclasses.replace(status, state=RunState.RUNNING)
    assert "step 50/100, 1:40 left" in status_line(running, {"step_s": 2.0})
    assert "step 50/100  " in status_line(running, {})
    assert "step 50/100  " in status_line(status, {"step_s": 2.0})


def test_why_the_run_failed_comes_before_why_its_job_did(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    failure = Failure("ValueError: too many classes", 70, rank=0, node=0)
    started.storage.create(
        layout.attempt_file(1, "outcome"), records.dump(OutcomeRecord(Outcome.FAILED, 70, 1.0, failure=failure))
    )
    reached = {"type": "Failed", "status": "True", "message": "Job has reached the specified backoff limit"}
    made = cluster.all("jobs")[0]
    cluster.put("jobs", made | {"status": {"conditions": [reached]}})
    first, second = str(run_status(started.storage).error).splitlines()
    assert first == "ValueError: too many classes"
    assert "reached the specified backoff limit" in second


def test_pods_of_a_jobset_that_are_not_made(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(with_options(job, kind="jobset"), tmp_path)
    warn(cluster, f"{name_of(started)}-node-0", "exceeded quota: gpus")
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert "the quota of namespace training" in found.says


def test_who_follows_is_told_why_it_waits(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    warn(cluster, name_of(started), "exceeded quota: gpus")
    assert started.handle.poll() is None
    assert "exceeded quota: gpus" in getattr(started.handle, "says", "")


def test_no_right_to_see_events_costs_only_the_reason(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    cluster.forbidden.add(("list", "events"))
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.says.endswith("waits for its pods")


def test_cancel_waits_until_the_pods_are_gone(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    begin(started)
    cluster.put("pods", pod(started, phase="Running"))
    cluster.slow_deletion = True
    canceller = threading.Thread(target=main, args=(["cancel", started.storage.url],))
    canceller.start()
    while not cluster.all("jobs")[0]["metadata"].get("deletionTimestamp"):
        time.sleep(0.05)
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.says.endswith("is being deleted, its pods first")
    assert canceller.is_alive()
    cluster.objects.clear()
    canceller.join(20)
    assert not canceller.is_alive()
    assert run_status(started.storage).state is RunState.STOPPED


def test_last_words_of_a_container_that_crashed(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    started.storage.append(layout.node_log(1, 1), b"[node 1] gang 0 starts\n")
    made = cluster.put("pods", crashed(started, 137, reason="OOMKilled", message="no module named x"))
    name = made["metadata"]["name"]
    cluster.logs[name] = "[node 1] gang 0 starts\n[node 1 rank 1] not flushed\ntorchrelay: no module named x\n"
    assert shown(started, capsys, "logs").splitlines() == [
        "[node 1] gang 0 starts",
        f"[node 1] pod {name}: killed for memory: raise resources.memory",
        "[node 1 rank 1] not flushed",
        "[node 1] pod: torchrelay: no module named x",
    ]
    assert shown(started, capsys, "logs", "--rank", "1") == "[node 1 rank 1] not flushed\n"
    assert shown(started, capsys, "logs", "--node", "0") == ""


def test_last_words_without_the_right_to_read_logs(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    cluster.put("pods", crashed(started, 1, message="ImportError: no module x"))
    cluster.forbidden.add(("get", "pods/log"))
    said = shown(started, capsys, "logs")
    assert 'add the rule {apiGroups: [""], resources: [pods/log], verbs: [get]}' in said
    assert "[node 1] pod: ImportError: no module x" in said


def test_last_words_that_went_with_their_node(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The API server asks the pod's node, and says 500 when that is lost."""
    started = submit(job, tmp_path)
    cluster.put("pods", crashed(started, 137, reason="OOMKilled"))

    def lost(_method: str, path: str) -> None:
        if path.endswith("/log"):
            raise Refusal(
                500, 'Get "https://10.0.0.7:10250/containerLogs/training/j": connect: connection refused', " "
            )

    cluster.interventions.append(lost)
    said = shown(started, capsys, "logs")
    assert "killed for memory" in said
    assert "its log cannot be read" in said
    assert "connection refused" in said
    cluster.forbidden.add(("get", "jobs"))
    assert run_status(started.storage).unreachable == ""  # the API itself was there all the time


def test_last_words_of_a_container_that_was_started_again(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a runtime of Kubeflow's, whose pods restart their containers in place."""
    started = submit(with_options(job, kind="trainjob"), tmp_path)
    made = crashed(started, 1)
    (status,) = made["status"]["containerStatuses"]
    made["status"] = {"phase": "Running", "containerStatuses": [status | {"lastState": status["state"], "state": {}}]}
    name = cluster.put("pods", made)["metadata"]["name"]
    cluster.logs |= {name: "the new one\n", f"{name}/previous": "the old one\n"}
    assert "[node 1] pod: the old one" in shown(started, capsys, "logs")


def test_pods_that_ended_as_they_should_say_nothing(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    cluster.put("pods", crashed(started, 75))
    assert shown(started, capsys, "logs") == ""


def test_words_of_an_earlier_attempt_stay_there(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    cluster.put("pods", crashed(started, 1, message="of attempt 1"))
    begin(started)
    started.storage.create(layout.attempt_file(1, "outcome"), records.dump(OutcomeRecord(Outcome.PREEMPTED, 75, 1.0)))
    from torchrelay_launch.backends.kubernetes import generations

    second = generations.claim_next(started.storage, generations.record_of(started.storage, 1), name_of(started))
    record = generations.record_of(started.storage, second)
    record.__dict__["created_at"] = time.time() + 60
    started.storage.replace(layout.attempt_file(second, "attempt"), records.dump(record))
    assert "of attempt 1" not in shown(started, capsys, "logs")
    assert "of attempt 1" in shown(started, capsys, "logs", "--attempt", "1")


def test_following_outlasts_an_api_that_is_away(
    cluster: Cluster,
    job: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Between two attempts, when nothing but the API knows that the run goes on."""
    monkeypatch.setattr(afar, "ASK_EVERY_S", {"kubernetes": 0.05})
    monkeypatch.setattr(afar, "LONGEST_S", 0.1)
    started = submit(job, tmp_path)
    begin(started)
    started.storage.create(layout.attempt_file(1, "outcome"), records.dump(OutcomeRecord(Outcome.PREEMPTED, 75, 1.0)))
    cluster.away = True
    follower = threading.Thread(target=main, args=(["logs", started.storage.url, "-f"],))
    follower.start()
    time.sleep(1.0)
    started.storage.append(layout.node_log(1, 0), b"[node 0] written meanwhile\n")
    time.sleep(1.0)
    assert follower.is_alive()
    cluster.away = False
    time.sleep(1.0)
    assert follower.is_alive()  # the pods are to come back
    cluster.objects.clear()
    follower.join(20)
    assert not follower.is_alive()
    seen = capsys.readouterr()
    assert seen.out == "[node 0] written meanwhile\n"
    assert seen.err.count("could not GET") == 1
    assert seen.err.count("the cluster answers again") == 1


def test_a_token_that_expires_meanwhile_is_no_verdict(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    cluster.token = "another"
    assert "log in to the cluster again" in run_status(started.storage).unreachable
    cluster.token = None
    assert run_status(started.storage).unreachable == ""


def test_an_api_that_is_just_back_may_not_know_all_rights(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    """It answers before it has read all roles."""
    started = submit(job, tmp_path)
    cluster.forbidden.add(("get", "jobs"))
    assert run_status(started.storage).unreachable == ""
    cluster.away = True
    assert "unable to handle" in run_status(started.storage).unreachable
    cluster.away = False
    assert "just back, and may not know all rights" in run_status(started.storage).unreachable
    cluster.forbidden.clear()
    assert run_status(started.storage).unreachable == ""


def test_an_api_that_has_only_just_started(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)

    def starting(_method: str, _path: str) -> None:
        raise Refusal(403, 'pods "j" is forbidden: not yet ready to handle request')

    cluster.interventions.append(starting)
    assert "has only just started" in run_status(started.storage).unreachable


def test_an_expired_list_is_asked_for_again(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    """410 Gone is no verdict on the run."""
    started = submit(job, tmp_path)

    def expired(_method: str, path: str) -> None:
        if path.endswith("/pods"):
            raise Refusal(410, "The provided continue parameter is too old")

    cluster.interventions.append(expired)
    assert "too old" in run_status(started.storage).unreachable
    cluster.interventions.clear()
    assert run_status(started.storage).unreachable == ""


def test_the_version_of_kueue_is_the_servers(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    cluster.installed |= {"workloads", "localqueues"}
    started = submit(with_options(job, queue="team-a"), tmp_path)
    made = cluster.all("jobs")[0]
    cluster.put("jobs", made | {"status": {"conditions": [{"type": "Suspended", "status": "True"}]}})
    watching.observe(started.storage, 1)
    assert ("GET", "/apis/kueue.x-k8s.io/v1beta2/namespaces/training/workloads") in cluster.calls


def test_what_the_cluster_warns_of_is_said(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.warning = 'would violate PodSecurity \\"restricted:latest\\"'
    said = 'the cluster warns: would violate PodSecurity "restricted:latest"'
    started = submit(job, tmp_path)
    assert started.handle.notes == (said,)
    main(["stop", started.storage.url])
    capsys.readouterr()
    assert main(["resume", started.storage.url, "--detach"]) == 0
    assert said in capsys.readouterr().err
