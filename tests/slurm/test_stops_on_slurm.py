"""A training on a real Slurm is stopped in every way that Slurm has, and comes to the same end as one left alone."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest
from slurm_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

LONG = "train.epochs=9"  # 207 steps of about 40 ms


@pytest.fixture(scope="session")
def left_alone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Digest and losses of a run on this machine that nobody disturbed."""
    from conftest import harness

    import shutil

    folder = tmp_path_factory.mktemp("left") / "alone"
    shutil.copytree(harness.PROGRAMS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    relay = harness.Relay(folder)
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
    relay.wait_for_step(45)
    os.kill(relay.process("torch.distributed.run", "--node-rank 0"), signal.SIGKILL)
    relay.wait_for_step(75)
    os.kill(relay.process("torchrelay_launch", " node ", "--node 1"), signal.SIGKILL)
    relay.wait_for_step(105)
    os.kill(relay.process("torchrelay_launch", " node ", "--node 0"), signal.SIGKILL)
    relay.wait_for_end()
    assert relay.causes() == ["lost supervisor", "lost supervisor", "completed"]
    assert len(set(relay.jobs())) == 1
    same_end(relay, left_alone)
