"""An array job on a real Slurm: what happens to one task must not happen to the array."""

from typing import Any

import pytest
from slurm_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_each_task_of_an_array_is_stopped_requeued_and_finished_by_itself(slurm: Cluster, slurm_relay: Any) -> None:
    slurm_relay.pretend(60, "resources.nodes=1", "sweep={grid: {env.LETTER: [a, b, c, d]}, at_once: 2}")
    array = slurm_relay.at(1).job_id().partition("_")[0]
    slurm_relay.at(1).wait_for_step(3)
    print(slurm.output("squeue"))
    print(slurm.output("scontrol", "-o", "show", "job", f"{array}_1"))
    print(slurm.output("scontrol", "-o", "show", "job", f"{array}_4"))
    print(slurm.output("sacct", "-n", "-P", "-X", "-D", "-j", f"{array}_4", "-o", "JobID,State,ExitCode,NodeList"))
    waiting = slurm_relay("status", slurm_relay.at(4).run().name)
    print(waiting)
    assert f"job {array}_4 waits: JobArrayTaskLimit" in waiting
    slurm.run("scontrol", "requeue", f"{array}_1")
    print(slurm_relay("stop", slurm_relay.at(4).run().name))
    slurm_relay.at(3).wait_for_step(3)
    print(slurm.output("squeue"))
    print(slurm_relay("ls"))
    print(slurm_relay("stop", slurm_relay.at(3).run().name))
    print(slurm_relay("ls", "--sweep", slurm_relay.sweep().name))
    slurm_relay.at(2).wait_for_end()
    slurm_relay.at(1).wait_for_end()
    print(slurm_relay("ls", "--sweep", slurm_relay.sweep().name))
    assert slurm_relay.at(2).causes() == ["completed"]
    assert slurm_relay.at(1).causes() == ["requeue", "completed"]
    assert slurm_relay.jobs()[0] == f"{array}_1"
    assert "_" not in slurm_relay.jobs()[1]
    states = {number: row["state"] for number, row in slurm_relay.results().items()}
    assert states == {1: "completed", 2: "completed", 3: "stopped", 4: "stopped"}
