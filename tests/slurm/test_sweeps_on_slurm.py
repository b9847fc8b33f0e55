"""An array job on a real Slurm: what happens to one task must not happen to the array."""

from typing import Any

import pytest
from slurm_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_each_task_of_an_array_is_stopped_requeued_and_finished_by_itself(slurm: Cluster, slurm_relay: Any) -> None:
    slurm_relay.pretend(80, "resources.nodes=1", "sweep={grid: {env.LETTER: [a, b, c, d]}, at_once: 2}")
    array = slurm_relay.at(1).job_id().partition("_")[0]
    waiting = slurm_relay("status", slurm_relay.at(4).run().name)
    assert f"job {array}_4 waits" in waiting
    assert "stopped" in slurm_relay("stop", slurm_relay.run().name)  # out of the queue
    slurm_relay.at(1).wait_for_step(3)
    slurm.run("scontrol", "requeue", f"{array}_1")
    slurm_relay.at(3).wait_for_step(3)
    assert slurm.job(f"{array}_3")["JobId"] == array  # the last task has the id of the whole array
    assert "cancelled" in slurm_relay("cancel", slurm_relay.run().name)
    slurm_relay.at(2).wait_for_end()
    slurm_relay.at(1).wait_for_end()
    states = {number: row["state"] for number, row in slurm_relay.results().items()}
    assert states == {1: "completed", 2: "completed", 3: "stopped", 4: "stopped"}
    assert slurm_relay.at(2).jobs() == [f"{array}_2"]
    assert slurm_relay.at(1).causes() == ["requeue", "completed"]
    first, second = slurm_relay.jobs()
    assert first == f"{array}_1"
    assert "_" not in second
    assert [event["step"] for event in slurm_relay.events("step")] == list(range(1, 81))
    assert {file.name for file in slurm_relay.run().glob("slurm/job-*.out")} == {
        f"job-{first}.out",
        f"job-{second}.out",
    }
