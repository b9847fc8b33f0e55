"""Which attempt pods run: claims, endings, and what Kubernetes is told by exit codes."""

import time
from pathlib import Path

import pytest

from torchrelay.contract import layout, records
from torchrelay.contract.errors import StorageError, SupersededError
from torchrelay.contract.exit_codes import ExitCode, Outcome
from torchrelay.contract.records import Failure, OutcomeRecord, StopRequest
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.kubernetes import generations
from torchrelay_launch.backends.kubernetes.generations import STOPPED, Begin
from torchrelay_launch.runs.claims import claim, create_run, new_attempt
from torchrelay_launch.spec.models import JobSpec

JOB = JobSpec(name="j", script="train.py")


def failed(code: int, **values: object) -> OutcomeRecord:
    return OutcomeRecord(Outcome.FAILED, code, 1.0, failure=Failure("it broke", code, **values))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("outcome", "asked_to_stop", "code"),
    [
        (OutcomeRecord(Outcome.COMPLETED, 0, 1.0), False, 0),
        (OutcomeRecord(Outcome.COMPLETED, 0, 1.0), True, 0),
        (OutcomeRecord(Outcome.PREEMPTED, 75, 1.0), False, None),
        (OutcomeRecord(Outcome.PREEMPTED, 75, 1.0), True, STOPPED),
        (OutcomeRecord(Outcome.PREEMPTED, 137, 1.0), True, STOPPED),
        (OutcomeRecord(Outcome.SUPERSEDED, 76, 1.0), False, 76),
        (failed(70, rank=0, node=0), False, 70),
        (failed(74, rank=1, node=0), False, 74),
        (failed(69, rank=1, node=0), False, 69),
        (failed(78, rank=0, node=0, retryable=False), False, 78),
        (failed(78, rank=0, node=0, retryable=False), True, 78),
        (failed(70, rank=0, node=0, retryable=False), False, 78),  # diverged: no retry can help
        (failed(70, node=1, retryable=False), False, None),  # a node was lost
        (failed(70, node=1, retryable=False), True, STOPPED),
    ],
)
def test_exit_codes_of_pods(outcome: OutcomeRecord, asked_to_stop: bool, code: int | None) -> None:
    assert generations.last_code(outcome, asked_to_stop=asked_to_stop) == code


def test_a_pod_that_does_not_come_gives_the_others_places_back() -> None:
    failure = Failure("node 1 of 2 did not come within 600 s", 70)
    assert generations.last_code(OutcomeRecord(Outcome.FAILED, 70, 1.0, failure=failure), asked_to_stop=False) == 75


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    storage = create_run(str(tmp_path), JOB)
    claim(storage, new_attempt(1, JOB, "kubernetes", "/w"), JOB, {})
    return storage


def begin(job: str = "j-a1") -> Begin:
    return Begin(job, f"{job}-0-x", "10.0.0.1", 29400, 2, "token", time.time())


def conclude(run: Storage, attempt: int, outcome: OutcomeRecord) -> None:
    run.create(layout.attempt_file(attempt, "outcome"), records.dump(outcome))


def test_the_first_start_takes_the_submitted_attempt(run: Storage) -> None:
    assert generations.begin_next(run, 1, "j-a1") == 1
    mine = begin()
    generations.write_begin(run, 1, mine)
    assert generations.read_begin(run, 1) == mine
    with pytest.raises(SupersededError, match="another pod"):
        generations.write_begin(run, 1, begin())


def test_a_pod_that_comes_back_concludes_what_it_left_and_claims_the_next(run: Storage) -> None:
    generations.write_begin(run, 1, begin())
    assert generations.begin_next(run, 1, "j-a1") == 2
    outcome = generations.outcome_of(run, 1)
    assert outcome is not None
    assert outcome.failure is not None
    assert "ended without a word" in outcome.failure.error
    record = generations.record_of(run, 2)
    assert (record.backend_id, record.backend, record.workdir) == ("j-a1", "kubernetes", "/w")
    assert run.read(layout.attempt_file(2, "spec")) == run.read(layout.attempt_file(1, "spec"))
    assert generations.begin_next(run, 1, "j-a1") == 2  # nobody has begun it


def test_a_pod_that_died_as_it_claimed_the_next_attempt_takes_it_up(run: Storage) -> None:
    generations.write_begin(run, 1, begin())
    assert generations.begin_next(run, 1, "j-a1") == 2
    run.delete(layout.attempt_file(2, "spec"))  # what is written last
    assert generations.begin_next(run, 1, "j-a1") == 2
    assert run.read(layout.attempt_file(2, "spec")) == run.read(layout.attempt_file(1, "spec"))


def test_after_a_preemption_the_run_goes_on(run: Storage) -> None:
    generations.write_begin(run, 1, begin())
    conclude(run, 1, OutcomeRecord(Outcome.PREEMPTED, 75, 1.0))
    assert generations.begin_next(run, 1, "j-a1") == 2


def test_after_a_counted_failure_the_next_pod_tries_again(run: Storage) -> None:
    generations.write_begin(run, 1, begin())
    conclude(run, 1, failed(70, rank=0, node=0))
    assert generations.begin_next(run, 1, "j-a1") == 2


@pytest.mark.parametrize("outcome", [OutcomeRecord(Outcome.COMPLETED, 0, 1.0), failed(78, retryable=False)])
def test_nothing_follows_what_is_over(run: Storage, outcome: OutcomeRecord) -> None:
    generations.write_begin(run, 1, begin())
    conclude(run, 1, outcome)
    assert generations.begin_next(run, 1, "j-a1") == outcome
    assert records.attempt_numbers(run) == [1]


def test_nothing_follows_a_stop(run: Storage) -> None:
    generations.write_begin(run, 1, begin())
    outcome = OutcomeRecord(Outcome.PREEMPTED, int(ExitCode.PREEMPTED), 1.0)
    conclude(run, 1, outcome)
    run.create(layout.attempt_file(1, "stop"), records.dump(StopRequest("stop", 1.0, "ada@login")))
    assert generations.begin_next(run, 1, "j-a1") == outcome


def test_another_job_owns_the_run(run: Storage) -> None:
    generations.write_begin(run, 1, begin())
    claim(run, new_attempt(2, JOB, "local", "/w"), JOB, {})
    generations.set_backend_id(run, 2, "j-a2")
    with pytest.raises(SupersededError, match="attempt 2 of the run belongs to j-a2"):
        generations.begin_next(run, 1, "j-a1")


def test_a_resumed_run_on_another_backend_owns_the_run(run: Storage) -> None:
    generations.write_begin(run, 1, begin())
    claim(run, new_attempt(2, JOB, "local", "/w"), JOB, {})
    with pytest.raises(SupersededError, match="attempt 2 of the run belongs to the backend local"):
        generations.begin_next(run, 1, "j-a1")


def test_a_pod_that_waits_is_believed_for_a_while(run: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not generations.waits(run, "j-a1", 1)
    generations.say_waiting(run, "j-a1", 1)
    assert generations.waits(run, "j-a1", 1)
    assert not generations.waits(run, "j-a2", 1)
    generations.forget_waiting(run)
    assert not generations.waits(run, "j-a1", 1)
    generations.say_waiting(run, "j-a1", 1)
    later = time.time() + 2 * generations.WAITS_S
    monkeypatch.setattr(time, "time", lambda: later)
    assert not generations.waits(run, "j-a1", 1)


def test_nodes_as_scaled(run: Storage) -> None:
    assert generations.wanted_nodes(run, 2) == 2
    run.replace(generations.NODES_FILE, b'{"nodes": 4}')
    assert generations.wanted_nodes(run, 2) == 4
    run.replace(generations.NODES_FILE, b"[")
    with pytest.raises(StorageError, match="damaged"):
        generations.wanted_nodes(run, 2)
