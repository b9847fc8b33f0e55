"""The same ways of going on as in test_going_on.py, on the fake: quick, and no Slurm is needed."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(180)


def held(relay: Any, *, hold: bool) -> None:
    path = relay.fake / "state.json"
    state = json.loads(path.read_text()) if path.exists() else {"jobs": {}, "nodes": {}}
    path.write_text(json.dumps(state | {"hold": hold}))


def all_steps(relay: Any, steps: int) -> None:
    assert [event["step"] for event in relay.events("step")] == list(range(1, steps + 1))


def test_a_job_completes(fake_relay: Any) -> None:
    fake_relay.pretend(3)
    assert fake_relay.wait_for_end()["exit_code"] == 0
    assert fake_relay.causes() == ["completed"]


@pytest.mark.parametrize(("word", "cause"), [("requeue", "requeue"), ("preempt", "preemption")])
def test_a_stop_with_notice_loses_nothing(fake_relay: Any, word: str, cause: str) -> None:
    fake_relay.pretend(40)
    fake_relay.wait_for_step(3)
    fake_relay.slurm("scontrol", word, fake_relay.job_id())
    fake_relay.wait_for_end()
    assert fake_relay.causes() == [cause, "completed"]
    assert fake_relay.jobs() == ["1", "2"]
    all_steps(fake_relay, 40)


def test_the_same_job_again_where_that_is_asked_for(fake_relay: Any) -> None:
    fake_relay.pretend(40, "slurm.requeue=requeue")
    fake_relay.wait_for_step(3)
    fake_relay.slurm("scontrol", "requeue", "1")
    fake_relay.wait_for_end()
    assert fake_relay.jobs() == ["1", "1"]
    all_steps(fake_relay, 40)


def test_a_killed_supervisor_starts_again_in_the_same_job(fake_relay: Any) -> None:
    fake_relay.pretend(40, every=3)
    fake_relay.wait_for_step(7)
    os.kill(fake_relay.process("pretend_node", "--node 1"), signal.SIGKILL)
    fake_relay.wait_for_end()
    assert fake_relay.causes() == ["lost supervisor", "completed"]
    assert fake_relay.jobs() == ["1", "1"]


def test_the_first_node_goes_with_all_that_is_on_it_and_slurm_starts_the_job_again(fake_relay: Any) -> None:
    fake_relay.pretend(40, every=5)
    fake_relay.wait_for_step(12)
    fake_relay.slurm("scontrol", "lose", "1")
    fake_relay.wait_for_end()
    assert fake_relay.causes() == ["requeue", "completed"]
    assert fake_relay.jobs() == ["1", "1"]
    assert [event["step"] for event in fake_relay.events("step")][-1] == 40


def test_an_edit_after_submission_does_not_reach_a_requeued_attempt(fake_relay: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    fake_relay._environment["PRETEND_NOTES"] = str(notes)
    code = fake_relay.folder / "model.py"
    code.write_text("as submitted")
    for words in (["init", "-q", "."], ["add", "model.py"]):
        subprocess.run(["git", *words], cwd=fake_relay.folder, check=True)
    fake_relay.pretend(40)
    fake_relay.wait_for_step(3)
    code.write_text("edited")
    fake_relay.slurm("scontrol", "requeue", "1")
    fake_relay.wait_for_end()
    for attempt in (1, 2):
        workdir = Path(json.loads((notes / f"a{attempt}-n0.json").read_text())["cwd"])
        assert workdir == fake_relay.run() / "code" / "a0001"
        assert (workdir / "model.py").read_text() == "as submitted"


def test_a_run_is_handed_on_once_slurmctld_answers_again(fake_relay: Any) -> None:
    fake_relay.pretend(40)
    fake_relay.wait_for_step(3)
    away = fake_relay.fake / "away"
    away.touch()
    for node in (0, 1):  # the notice of the time limit
        os.kill(fake_relay.process("pretend_node", f"--node {node}"), signal.SIGUSR1)
    assert fake_relay.record("outcome")["outcome"] == "preempted"
    assert not fake_relay.ended()
    assert "slurmctld does not answer" in fake_relay("status", fake_relay.run().name)
    away.unlink()
    fake_relay.wait_for_end()
    assert fake_relay.causes() == ["time limit", "completed"]
    all_steps(fake_relay, 40)


def test_never_means_never(fake_relay: Any) -> None:
    fake_relay.pretend(90, "slurm.requeue=never")
    fake_relay.wait_for_step(3)
    os.kill(fake_relay.process("pretend_node", "--node 0"), signal.SIGUSR1)
    assert fake_relay.wait_for_end("preempted")["attempts"] == 1


def test_a_job_in_the_queue_shows_as_pending_and_is_taken_out(fake_relay: Any) -> None:
    held(fake_relay, hold=True)
    fake_relay.pretend(5)
    assert fake_relay.json("status", fake_relay.run().name)["state"] == "pending"
    fake_relay("cancel", fake_relay.run().name)
    fake_relay.wait_for_end("stopped")
    assert fake_relay.slurm("squeue").strip() == ""


def test_a_job_cancelled_in_the_queue_by_scancel_is_stopped(fake_relay: Any) -> None:
    held(fake_relay, hold=True)
    fake_relay.pretend(5)
    fake_relay.slurm("scancel", "1")
    fake_relay.wait_for_end("stopped")


def test_run_follows_a_run_from_job_to_job(fake_relay: Any) -> None:
    job = fake_relay.start_pretending("run", 40)
    fake_relay.wait_for_step(3)
    fake_relay.slurm("scontrol", "requeue", "1")
    output = fake_relay.finish(job)
    assert "goes on as attempt 2" in output
    assert "completed" in output


def test_logs_are_followed_from_job_to_job_and_nothing_is_overwritten(fake_relay: Any) -> None:
    fake_relay.pretend(40)
    fake_relay.wait_for_step(3)
    run = fake_relay.run().name
    all_nodes, second = (fake_relay.start("logs", run, "-f", *words) for words in ([], ["--node", "1"]))
    fake_relay.wait_for_step(10)
    fake_relay.slurm("scontrol", "requeue", "1")
    fake_relay.wait_for_end()
    expected = [
        f"[node {node} rank {node}] attempt {attempt} {what}"
        for attempt, end in ((1, 75), (2, 0))
        for node in (0, 1)
        for what in ("begins", f"ends with {end}")
    ]
    followed = [line for line in fake_relay.finish(all_nodes).splitlines() if line.startswith("[")]
    assert sorted(followed) == sorted(expected)
    assert [line for line in fake_relay.finish(second).splitlines() if line.startswith("[")] == [
        line for line in expected if "node 1" in line
    ]
    kept = [line for number in "12" for line in fake_relay("logs", run, "--attempt", number).splitlines()]
    assert kept == expected


def test_a_wrong_partition_is_the_users_to_fix(fake_relay: Any) -> None:
    assert "there is no partition 'gpu' here" in fake_relay.refused(78, "slurm.partition=gpu")


def test_the_environment_file_is_for_its_owner_only(fake_relay: Any) -> None:
    fake_relay.pretend(30)
    (file,) = fake_relay.run().glob("slurm/*.env")
    assert file.stat().st_mode & 0o777 == 0o600
    fake_relay.wait_for_end()
    fake_relay.wait_until("it is forgotten when the run is over", lambda: not file.exists())
