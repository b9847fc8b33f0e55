"""Why a run waits, when the cluster says more than one thing, or says what is over."""

import dataclasses
import time
from pathlib import Path

import pytest
from api_server import Cluster
from seeing import WAITING_TO_MOUNT, crashed, shown, warn
from submitting import begin, name_of, pod, submit

from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.units import NodeCount
from torchrelay_launch.backends.kubernetes import watching
from torchrelay_launch.spec.models import JobSpec, Resources

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the client's own
    pytest.mark.usefixtures("kubeconfig"),
    pytest.mark.timeout(60),
]


def test_a_volume_that_cannot_be_mounted(
    cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    waiting = cluster.put("pods", pod(started, **WAITING_TO_MOUNT))
    warn(cluster, waiting["metadata"]["name"], 'MountVolume.SetUp failed for volume "ca": secret "ca" not found')
    assert 'secret "ca" not found' in shown(started, capsys, "status")


def test_scheduling_is_over_when_the_pod_is_set_up(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    """Its events stay for an hour."""
    started = submit(job, tmp_path)
    waiting = cluster.put("pods", pod(started, **WAITING_TO_MOUNT))["metadata"]["name"]
    warn(cluster, waiting, "0/3 nodes are available: 3 Insufficient cpu.", reason="FailedScheduling")
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.says == f"pod {waiting}: being set up (image, volumes)"


@pytest.mark.parametrize(("since", "says"), [("10:16:01", "waits for its pods"), ("10:16:00", "exceeded quota")])
def test_a_refusal_is_over_when_a_pod_was_made_since(
    since: str, says: str, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    started = submit(job, tmp_path)
    warn(cluster, name_of(started), "exceeded quota: gpus", reason="FailedCreate")
    made = {"type": "Normal", "reason": "SuccessfulCreate"}
    warn(cluster, name_of(started), "Created pod: j-0-x", f"2026-11-21T{since}.25Z", **made)
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert says in found.says


def test_many_pods_with_one_trouble_are_one_line(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(dataclasses.replace(job, resources=Resources(NodeCount(3, 3))), tmp_path)
    full = {"type": "PodScheduled", "status": "False", "message": "3 Insufficient cpu."}
    for index in range(3):
        made = pod(started, phase="Pending", conditions=[full])
        made["metadata"]["name"] += str(index)
        cluster.put("pods", made)
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.says == f"3 pods, such as {name_of(started)}-0-abcde0, are not scheduled: 3 Insufficient cpu."


def test_a_replacement_does_not_hide_why_it_is_needed(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    cluster.put("pods", crashed(started, 137, reason="OOMKilled"))
    made = pod(started, phase="Pending")
    made["metadata"] |= {"name": f"{name_of(started)}-0-fghij", "creationTimestamp": "2026-11-21T10:16:00Z"}
    cluster.put("pods", made)
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert "0-fghij is to be scheduled; before: pod" in found.says
    assert "killed for memory: raise resources.memory" in found.says


def test_pods_that_have_started_are_not_waited_for(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    cluster.put("pods", pod(started, phase="Running"))
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.state is RunState.PENDING
    assert found.says.endswith("1 pod started, the attempt is about to begin")


@pytest.mark.parametrize(
    ("after_s", "says"), [(-60, "is being deleted: evicted"), (60, "evicted, node n1 does not say that it has ended")]
)
@pytest.mark.parametrize("begun", [True, False])
def test_a_pod_that_has_to_go(
    after_s: int, says: str, begun: bool, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    """`after_s`: since the end of its grace. No replacement comes before it has ended."""
    started = submit(job, tmp_path)
    if begun:
        begin(started)
    evicted = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
    made = pod(started, phase="Running", conditions=[evicted]) | {"spec": {"nodeName": "n1"}}
    made["metadata"]["deletionTimestamp"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - after_s))
    cluster.put("pods", made)
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.says.endswith(says)
    assert found.state is (RunState.RUNNING if begun else RunState.PENDING)


def test_a_pod_whose_node_is_lost(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    """It stays Running for five minutes, which is no start of an attempt."""
    started = submit(job, tmp_path)
    ready = [{"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "False"}]
    made = pod(started, phase="Running", conditions=ready) | {"spec": {"nodeName": "n1"}}
    name = cluster.put("pods", made)["metadata"]["name"]
    found = watching.observe(started.storage, 1)
    assert found is not None
    assert found.says == f"pod {name} is on a node that does not answer: n1"
