"""Every way in which Slurm stops a job, and how the run goes on. The supervisors only pretend; Slurm is real."""

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest
from slurm_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]


def all_steps(relay: Any, steps: int) -> None:
    """No step was lost or done twice."""
    assert [event["step"] for event in relay.events("step")] == list(range(1, steps + 1))


def test_a_job_left_alone_completes_in_one_attempt(slurm_relay: Any) -> None:
    slurm_relay.pretend(10)
    status = slurm_relay.wait_for_end()
    assert (status["attempts"], status["step"], status["exit_code"]) == (1, 10, 0)
    assert status["backend_id"] == slurm_relay.job_id()
    assert slurm_relay.causes() == ["completed"]


@pytest.mark.parametrize(("partition", "cause"), [("low", "preemption"), ("lower", "preemption")])
def test_preemption_by_requeue_and_by_cancel(slurm: Cluster, slurm_relay: Any, partition: str, cause: str) -> None:
    slurm_relay.pretend(60, f"slurm.partition={partition}")
    slurm_relay.wait_for_step(5)
    slurm.run("sbatch", "-p", "urgent", "-N3", "-n12", "-o", "/dev/null", "--wrap", "sleep 1")
    slurm_relay.wait_for_end()
    assert slurm_relay.causes() == [cause, "completed"]
    all_steps(slurm_relay, 60)


@pytest.mark.parametrize("mode", ["auto", "requeue"])
def test_an_administrator_requeues(slurm: Cluster, slurm_relay: Any, mode: str) -> None:
    slurm_relay.pretend(60, f"slurm.requeue={mode}")
    slurm_relay.wait_for_step(5)
    job = slurm_relay.job_id()
    slurm.run("scontrol", "requeue", job)
    if mode == "requeue":  # the same job again; Slurm would hold it for two minutes
        slurm_relay.wait_until("it waits", lambda: slurm.job(job).get("JobState") == "PENDING")
        assert slurm_relay.json("status", slurm_relay.run().name)["state"] == "pending"
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now")
    slurm_relay.wait_for_end()
    assert slurm_relay.causes() == ["requeue", "completed"]
    assert len(set(slurm_relay.jobs())) == (2 if mode == "auto" else 1)
    all_steps(slurm_relay, 60)


def set_down(slurm: Cluster, node: str) -> None:
    slurm.run("scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=test")


def kill_slurmd(slurm: Cluster, node: str) -> None:
    slurm.kill_daemon(f"slurmd-{node}")


@pytest.mark.parametrize("lose", [set_down, kill_slurmd])
@pytest.mark.parametrize("index", [0, 1])
def test_a_lost_node_is_left_out_of_the_next_attempt(
    slurm: Cluster, slurm_relay: Any, lose: Callable[[Cluster, str], None], index: int
) -> None:
    slurm_relay.pretend(10_000)
    slurm_relay.wait_for_step(5)
    node = slurm_relay.record("slurm")["nodes"][index]
    lose(slurm, node)
    slurm_relay.wait_for_attempt(2)
    assert slurm_relay.record("slurm-end", 1)["cause"] == "node failure"
    assert node not in slurm_relay.record("slurm")["nodes"]
    slurm_relay("cancel", slurm_relay.run().name)


def test_a_killed_supervisor_is_started_again_in_the_same_job(slurm_relay: Any) -> None:
    slurm_relay.pretend(60, every=5)
    slurm_relay.wait_for_step(12)
    os.kill(slurm_relay.process("pretend_node", "--node 1"), signal.SIGKILL)
    slurm_relay.wait_for_attempt(2)
    slurm_relay.wait_for_step(30)
    os.kill(slurm_relay.process("pretend_node", "--node 0"), signal.SIGKILL)
    slurm_relay.wait_for_end()
    assert slurm_relay.causes() == ["lost supervisor", "lost supervisor", "completed"]
    assert len(set(slurm_relay.jobs())) == 1


def test_scancel_is_final(slurm: Cluster, slurm_relay: Any) -> None:
    slurm_relay.pretend(600)
    slurm_relay.wait_for_step(5)
    slurm.run("scancel", slurm_relay.job_id())
    status = slurm_relay.wait_for_end("stopped")
    assert status["last_checkpoint_step"] == status["step"] >= 5
    assert slurm_relay.causes() == ["stopped"]


@pytest.mark.parametrize("verb", ["stop", "cancel"])
def test_a_stop_request_is_final_too(slurm: Cluster, slurm_relay: Any, verb: str) -> None:
    slurm_relay.pretend(600)
    slurm_relay.wait_for_step(5)
    slurm_relay(verb, slurm_relay.run().name)
    slurm_relay.wait_for_end("stopped")
    slurm_relay.wait_until("the queue is empty", lambda: not slurm.output("squeue", "-h"))
    assert slurm_relay.causes() == ["stopped"]


@pytest.mark.parametrize("verb", ["stop", "cancel"])
def test_a_job_that_waits_can_be_stopped(slurm: Cluster, slurm_relay: Any, verb: str) -> None:
    slurm.run("sbatch", "-N3", "-n12", "-o", "/dev/null", "--wrap", "sleep 100")
    slurm_relay.pretend(10)
    status = slurm_relay.json("status", slurm_relay.run().name)
    assert status["state"] == "pending"
    slurm_relay(verb, slurm_relay.run().name)
    assert slurm_relay.wait_for_end("stopped")["attempts"] == 1
    assert slurm_relay.job_id() not in slurm.output("squeue", "-h", "-o", "%i").split()


def test_a_stopped_run_resumes_on_slurm(slurm_relay: Any) -> None:
    slurm_relay.pretend(40)
    slurm_relay.wait_for_step(5)
    slurm_relay("stop", slurm_relay.run().name)
    slurm_relay("resume", slurm_relay.run().name, "--detach")
    slurm_relay.wait_for_end()
    all_steps(slurm_relay, 40)


def test_a_job_that_makes_no_progress_twice_is_not_submitted_again(slurm_relay: Any) -> None:
    slurm_relay.pretend(10_000)
    for attempt in (1, 2):
        slurm_relay.wait_for_attempt(attempt)
        os.kill(slurm_relay.process("pretend_node", "--node 0"), signal.SIGKILL)
        time.sleep(0.5)
    status = slurm_relay.wait_for_end("failed")
    assert status["attempts"] == 2
    assert "no checkpoint" in status["error"]


def test_two_runs_at_once_on_the_same_nodes(slurm: Cluster, make_slurm_relay: Any) -> None:
    first, second = make_slurm_relay("first"), make_slurm_relay("second")
    first.pretend(40)
    second.pretend(40)
    second.wait_for_step(1)
    assert first.record("slurm")["nodes"] == second.record("slurm")["nodes"]
    for relay in (first, second):
        relay.wait_for_end()
        all_steps(relay, 40)


def test_a_node_that_does_not_come_is_named_in_time(slurm_relay: Any) -> None:
    """Real supervisors: the second node's is held back for longer than slurm.join."""
    (slurm_relay.folder / "nothing.py").touch()
    (slurm_relay.folder / "late.yaml").write_text("name: late\nscript: nothing.py\n")
    slurm_relay.submit("late.yaml", "slurm.join=3s", 'slurm.setup=["test $SLURM_NODEID = 0 || sleep 20"]')
    status = slurm_relay.wait_for_end("failed")
    assert "node 1 of 2 did not come within 3 s" in status["error"]
