"""A training on a real Slurm is stopped in every way that Slurm has, and comes to the same end as one left alone."""

import os
import signal
from typing import Any

import pytest
from relay import Relay, with_programs
from slurm_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LONG = "train.epochs=6"  # 138 steps of about 40 ms


@pytest.fixture(scope="session")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Digest and losses of a run on this machine that nobody disturbed."""
    relay = Relay(with_programs(tmp_path_factory.mktemp("left") / "alone"))
    relay("run", "paced.yaml", "--set", LONG)
    losses = {event["step"]: event["metrics"]["loss"] for event in relay.events("step")}
    return {"digest": relay.digest(), "losses": losses}


def same_end(relay: Any, left_alone: Any) -> None:
    """The run has the weights, the optimizer and the curve of the one that was left alone."""
    assert relay.digest() == left_alone["digest"]
    assert relay.losses() == left_alone["losses"]


def test_killed_parts_are_started_again_in_the_same_job(slurm_relay: Any, left_alone: Any) -> None:
    relay = slurm_relay
    relay.submit("paced.yaml", LONG)
    relay.wait_for_step(15)
    os.kill(relay.process("torchrelay.train", rank=1), signal.SIGKILL)
    relay.wait_for_step(40)
    os.kill(relay.process("torch.distributed.run", "--node-rank 0"), signal.SIGKILL)
    relay.wait_for_step(65)
    os.kill(relay.process("torchrelay_launch", " node ", "--node 1"), signal.SIGKILL)
    relay.wait_for_step(90)
    os.kill(relay.process("torchrelay_launch", " node ", "--node 0"), signal.SIGKILL)
    relay.wait_for_end()
    assert relay.causes() == ["lost supervisor", "lost supervisor", "completed"]
    assert len(set(relay.jobs())) == 1
    same_end(relay, left_alone)


def test_requeued_preempted_and_off_a_node_that_went_down(slurm: Cluster, slurm_relay: Any, left_alone: Any) -> None:
    relay = slurm_relay
    relay.submit("paced.yaml", LONG, "slurm.partition=low")
    relay.wait_for_step(15)
    slurm.run("scontrol", "requeue", relay.job_id())
    relay.wait_for_attempt(2)
    relay.wait_for_step(40)
    slurm.run("sbatch", "-p", "urgent", "-N3", "-n12", "-o", "/dev/null", "--wrap", "sleep 1")
    relay.wait_for_attempt(3)
    relay.wait_for_step(65)
    slurm.run("scontrol", "update", f"NodeName={relay.record('slurm')['nodes'][1]}", "State=DOWN", "Reason=test")
    relay.wait_for_end()
    assert relay.causes() == ["requeue", "preemption", "node failure", "completed"]
    same_end(relay, left_alone)
    steps = [event["step"] for event in relay.events("step")]
    assert steps == sorted(set(steps))  # each stop came with notice, so none lost a step


def test_the_time_limit_is_hit_three_times(slurm: Cluster, slurm_relay: Any, left_alone: Any) -> None:
    """Slurm sends USR1 itself: an administrator shortens the limit, and it looks every half a minute."""
    relay = slurm_relay
    relay.pace(0.03)
    relay.submit("paced.yaml", LONG, "resources.time_limit=20m", "restarts.grace=100s")
    for attempt in (1, 2, 3):
        relay.wait_for_attempt(attempt)
        job = relay.job_id()
        limit = int(slurm.job(job)["RunTime"].split(":")[1]) + 2  # minutes: the notice is due, the end is not
        slurm.run("scontrol", "update", f"JobId={job}", f"TimeLimit={limit}")
    relay.wait_for_attempt(4)
    relay.pace(0.0)
    relay.wait_for_end()
    assert relay.causes() == ["time limit"] * 3 + ["completed"]
    assert len(set(relay.jobs())) == 4
    same_end(relay, left_alone)
    steps = [event["step"] for event in relay.events("step")]
    assert steps == sorted(set(steps))
