"""How a run on Slurm stands between two of its attempts, from its records."""

import time
from pathlib import Path

import pytest

from torchrelay.contract import layout, records
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.records import AttemptRecord, Failure
from torchrelay.contract.storage import LocalStorage
from torchrelay_launch.backends.slurm import client, journal, watching
from torchrelay_launch.backends.slurm.client import Job, SchedulerAwayError
from torchrelay_launch.backends.slurm.journal import Begin, End
from torchrelay_launch.backends.slurm.states import Cause
from torchrelay_launch.backends.slurm.watching import observe


@pytest.fixture
def lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalStorage:
    """Attempt 1 of a run, as job 38, which lost a supervisor."""
    monkeypatch.setattr(watching, "DECIDES_S", 0.0)
    storage = LocalStorage(tmp_path)
    record = AttemptRecord(1, "slurm", created_at=0.0, host="login", workdir="/w", backend_id="38")
    storage.create(layout.attempt_file(1, "attempt"), records.dump(record))
    journal.write_begin(storage, 1, Begin("38", 0, ["n1", "n2"], 0.0))
    journal.conclude(storage, 1, Outcome.FAILED, Failure("node 1 was lost", 70), 70)
    return storage


def end(next_job: str) -> End:
    return End(Cause.LOST, "lost supervisor", 0.0, next_job=next_job)


def jobs(monkeypatch: pytest.MonkeyPatch, found: Job | None) -> None:
    monkeypatch.setattr(client, "find_job", lambda _job_id: found)


def test_a_job_that_still_runs_decides(lost: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs(monkeypatch, Job("38", "RUNNING"))
    found = observe(lost, 1)
    assert found is not None
    assert found.state is RunState.RUNNING


def test_a_job_that_slurm_calls_over_may_still_decide(lost: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs(monkeypatch, Job("38", "TIMEOUT"))
    assert observe(lost, 1) is None
    monkeypatch.setattr(watching, "DECIDES_S", 60.0)
    found = observe(lost, 1)
    assert found is not None
    assert found.state is RunState.RUNNING


def test_an_attempt_that_was_handed_on_has_not_failed(lost: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs(monkeypatch, None)
    journal.write_end(lost, 1, end("38"))
    found = observe(lost, 1)
    assert found is not None
    assert found.live


def test_handing_on_may_happen_while_slurm_is_asked(lost: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    def find_job(_job_id: str) -> None:
        journal.write_end(lost, 1, end("39"))

    monkeypatch.setattr(client, "find_job", find_job)
    found = observe(lost, 1)
    assert found is not None
    assert found.live


def test_a_job_may_end_while_slurm_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = LocalStorage(tmp_path)
    record = AttemptRecord(1, "slurm", created_at=0.0, host="login", workdir="/w", backend_id="38")
    storage.create(layout.attempt_file(1, "attempt"), records.dump(record))
    journal.write_begin(storage, 1, Begin("38", 0, ["n1", "n2"], 0.0))

    def find_job(_job_id: str) -> Job:
        if journal.outcome_of(storage, 1) is None:
            journal.conclude(storage, 1, Outcome.PREEMPTED, None, 75)
            journal.write_end(storage, 1, End(Cause.PREEMPTED, "preemption", 0.0, next_job="39"))
        return Job("38", "PREEMPTED")

    monkeypatch.setattr(client, "find_job", find_job)
    found = observe(storage, 1)
    assert found is not None
    assert found.live


@pytest.fixture
def claimed(lost: LocalStorage) -> LocalStorage:
    """The same run, with attempt 2 claimed by job 38, which has yet to submit the job for it."""
    record = AttemptRecord(2, "slurm", created_at=time.time(), host="n1", workdir="/w", backend_id="38")
    lost.create(layout.attempt_file(2, "attempt"), records.dump(record))
    return lost


def test_the_next_attempt_may_get_its_job_while_slurm_is_asked(
    claimed: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_job(job_id: str) -> Job:
        journal.set_backend_id(claimed, 2, "39")
        return Job(job_id, {"38": "FAILED", "39": "PENDING"}[job_id])

    monkeypatch.setattr(client, "find_job", find_job)
    found = observe(claimed, 2)
    assert found is not None
    assert (found.state, found.says) == (RunState.PENDING, "job 39 waits")


def test_a_job_that_slurm_calls_over_may_still_find_the_next_one(
    claimed: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs(monkeypatch, Job("38", "TIMEOUT"))
    found = observe(claimed, 2)
    assert found is not None
    assert found.state is RunState.FAILED
    monkeypatch.setattr(watching, "DECIDES_S", 60.0)
    found = observe(claimed, 2)
    assert found is not None
    assert found.state is RunState.RUNNING


def test_a_budget_that_is_used_up_is_named(lost: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs(monkeypatch, None)
    journal.write_end(lost, 1, end(""))
    found = observe(lost, 1)
    assert found is not None
    assert found.state is RunState.FAILED
    assert "does not go on" in (found.error or "")


def test_without_a_word_the_outcome_holds(lost: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs(monkeypatch, None)
    assert observe(lost, 1) is None


def test_while_slurm_is_away_a_run_that_may_go_on_has_not_ended(
    lost: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_job(_job_id: str) -> None:
        raise SchedulerAwayError("slurmctld does not answer")

    monkeypatch.setattr(client, "find_job", find_job)
    found = observe(lost, 1)
    assert found is not None
    assert (found.state, found.unreachable) == (RunState.RUNNING, True)
    journal.write_end(lost, 1, End(Cause.COMPLETED, "", 0.0))
    assert observe(lost, 1) is None  # what is written down needs no Slurm
