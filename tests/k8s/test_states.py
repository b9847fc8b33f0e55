"""How a run on Kubernetes stands: from its Job, its pods and its records."""

from pathlib import Path

import pytest
import yaml
from api_server import Cluster, kubeconfig_of, serving
from submitting import begin, name_of, pod, refusal, submit, with_options

from torchrelay.contract import layout, records
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.records import Failure, OutcomeRecord
from torchrelay_launch.backends.kubernetes import watching
from torchrelay_launch.backends.kubernetes.backend import KubernetesBackend
from torchrelay_launch.cli import main
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client's own


def test_api_that_is_away(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    cluster.away = True
    status = run_status(started.storage)
    assert status.state is RunState.PENDING
    assert "could not GET" in status.unreachable
    assert "could not POST" in refusal(job, tmp_path)
    cluster.away = False
    assert run_status(started.storage).unreachable == ""


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
    "a site's own container": (
        {
            "phase": "Pending",
            "initContainerStatuses": [{"state": {"waiting": {"reason": "ImagePullBackOff", "message": "mesh:9"}}}],
            "containerStatuses": [{"state": {"waiting": {"reason": "PodInitializing"}}}],
        },
        RunState.PENDING,
        "the image cannot be pulled: mesh:9",
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
    "evicted for its disk": (
        {
            "phase": "Failed",
            "reason": "Evicted",
            "message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
            "containerStatuses": [{"state": {"terminated": {"reason": "Error", "exitCode": 137}}}],
        },
        RunState.PENDING,
        "evicted (Pod ephemeral local storage usage exceeds",
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


def test_a_job_that_is_about_to_fail_says_so(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    """It is failed only when its last pod has ended, which may take its grace."""
    started = submit(job, tmp_path)
    begin(started)
    made = cluster.all("jobs")[0]
    failing = {"type": "FailureTarget", "status": "True", "message": "exceeded the number of failed indexes"}
    cluster.put("jobs", made | {"status": {"conditions": [failing]}})
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.state is RunState.RUNNING
    assert found.says.endswith("fails as soon as its pods have ended: exceeded the number of failed indexes")


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
    assert started.handle.poll() == 137


def test_a_job_that_waits_for_another_pod_is_not_running(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    """The Job controller waits for up to ten minutes before it makes one."""
    started = submit(job, tmp_path)
    begin(started)
    cluster.put("pods", pod(started, **STATES["memory"][0]))
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.state is RunState.PENDING
    assert "waits for its pods; before: " in found.says
    assert "killed for memory" in found.says


def test_a_kubeconfig_for_another_cluster_does_not_end_a_run(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    ours = yaml.safe_load(kubeconfig.read_text())
    with serving(Cluster()) as elsewhere:
        kubeconfig.write_text(yaml.safe_dump(kubeconfig_of(elsewhere)))
        found = watching.observe(started.storage, 1)
        assert found is not None
        assert (found.state, found.unreachable) == (None, True)
        assert f"this kubeconfig leads to {elsewhere}, which does not have it" in found.says
        assert main(["cancel", started.storage.url]) == 74
        assert "kubectl config use-context" in capsys.readouterr().err
        assert cluster.all("jobs") != []
        both = kubeconfig_of(elsewhere)  # the current context leads elsewhere, another one to the run
        both["clusters"].append({"name": "ours", "cluster": ours["clusters"][0]["cluster"]})
        both["contexts"].append({"name": "ours", "context": {"cluster": "ours", "user": "ada"}})
        kubeconfig.write_text(yaml.safe_dump(both))
        assert main(["cancel", started.storage.url]) == 0
        assert cluster.all("jobs") == []


def test_a_deleted_job_is_seen(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    cluster.objects.clear()
    error = run_status(started.storage).error
    assert error is not None
    assert "somebody deleted it" in error


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
