"""What becomes of an attempt after a gang has ended."""

import asyncio
import time
from pathlib import Path

import pytest

from torchrelay.contract import events, layout, records
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import Failure, OutcomeRecord
from torchrelay.contract.storage import LocalStorage
from torchrelay_launch.runs.claims import claim_attempt, create_run
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.supervisor.coordinator import Verdict
from torchrelay_launch.supervisor.gang import End, Ending
from torchrelay_launch.supervisor.judge import Judge, first

JOB = JobSpec(name="t", script="a.py")
BAD = Failure("rank 0 raised", 70, rank=0, traceback="ValueError: x")


class Court:
    """A judge over a run on disk, and what it said."""

    def __init__(self, root: Path, allowed: int = 3, stopping: str | None = None) -> None:
        self.storage = create_run(str(root), JOB)
        claim_attempt(self.storage, JOB, {}, "local", "/", 0)
        self.said: list[str] = []
        self.judge = Judge(self.storage, 1, allowed, self.said.append)
        self.judge.stopping = lambda: stopping

    def verdict(self, *endings: Ending, restart: int = 0) -> Verdict:
        return asyncio.run(self.judge.judge(list(endings), restart))

    def outcome(self) -> OutcomeRecord:
        found = records.read(self.storage, OutcomeRecord, layout.attempt_file(1, "outcome"))
        assert found is not None
        return found


def failed(failure: Failure = BAD, at: float = 1.0, *, port_taken: bool = False) -> Ending:
    return Ending(End.FAILED, at, failure, port_taken=port_taken)


def ending(end: End) -> Ending:
    return Ending(end, 1.0)


def test_all_nodes_completed(tmp_path: Path) -> None:
    court = Court(tmp_path)
    assert court.verdict(ending(End.COMPLETED), ending(End.COMPLETED)).exit_code == 0
    assert court.outcome().outcome is Outcome.COMPLETED


def test_ranks_that_stopped_by_themselves_were_preempted(tmp_path: Path) -> None:
    court = Court(tmp_path)
    assert court.verdict(ending(End.STOPPED), ending(End.COMPLETED)).exit_code == 75
    assert court.outcome().outcome is Outcome.PREEMPTED


def test_failure_starts_again_and_then_gives_up(tmp_path: Path) -> None:
    court = Court(tmp_path, allowed=3)
    assert court.verdict(failed(), ending(End.KILLED)) == Verdict()
    verdict = court.verdict(failed(), restart=1)
    assert verdict.exit_code == 70
    outcome = court.outcome()
    assert outcome.failure is not None
    assert outcome.failure.error.endswith("(gave up: the same error came twice in a row without any progress)")
    assert outcome.restarts == 1


def test_killed_rank_is_told_with_its_step(tmp_path: Path) -> None:
    court = Court(tmp_path, allowed=0)
    line = events.encode({"event": "step", "t": 0.0, "step": 340})
    court.storage.append(layout.events_file(Writer(1, 2)), line)
    court.verdict(failed(Failure("rank 1 (node 0) was killed by SIGKILL", 137, rank=1, node=0)), restart=2)
    failure = court.outcome().failure
    assert failure is not None
    assert failure.error.startswith("rank 1 (node 0) was killed by SIGKILL at step 340")
    assert failure.step == 340


@pytest.mark.parametrize(
    ("stopping", "endings", "code", "outcome"),
    [
        ("stop", [ending(End.STOPPED)], 75, Outcome.PREEMPTED),
        ("stop", [ending(End.KILLED)], 75, Outcome.PREEMPTED),
        ("stop", [ending(End.COMPLETED)], 0, Outcome.COMPLETED),
        ("stop", [failed()], 75, Outcome.PREEMPTED),
        ("stop", [failed(Failure("wrong", 78, retryable=False))], 78, Outcome.FAILED),
        ("stop", [failed(Failure("newer", 76, retryable=False))], 76, Outcome.SUPERSEDED),
        ("stop", [failed(Failure("loss is nan", 70, rank=0, retryable=False))], 70, Outcome.FAILED),
        ("cancel", [ending(End.KILLED)], 137, Outcome.PREEMPTED),
    ],
)
def test_stop_ends_the_attempt(
    tmp_path: Path, stopping: str, endings: list[Ending], code: int, outcome: Outcome
) -> None:
    court = Court(tmp_path, stopping=stopping)
    assert court.verdict(*endings).exit_code == code
    assert (court.outcome().outcome, court.outcome().exit_code) == (outcome, code)


def test_what_the_ranks_wrote_holds(tmp_path: Path) -> None:
    court = Court(tmp_path)
    written = OutcomeRecord(Outcome.COMPLETED, 0, time.time(), step=100)
    court.storage.create(layout.attempt_file(1, "outcome"), records.dump(written))
    assert court.verdict(failed()).exit_code == 0
    assert court.outcome() == written


def test_newer_attempt_ends_this_one(tmp_path: Path) -> None:
    court = Court(tmp_path)
    claim_attempt(court.storage, JOB, {}, "local", "/", 1)
    assert court.verdict(failed()).exit_code == 76
    assert court.outcome().outcome is Outcome.SUPERSEDED


def test_taken_port_costs_nothing_of_the_budget_but_not_for_ever(tmp_path: Path) -> None:
    court = Court(tmp_path, allowed=0)
    taken = failed(Failure("torchrun failed", 70), port_taken=True)
    assert [court.verdict(taken).exit_code for _ in range(6)] == [None] * 5 + [70]


def test_first_failure_of_all_nodes_is_the_earliest_that_is_a_cause() -> None:
    lost = Failure("peer gone", 70, peer_lost=True)
    assert first([failed(lost, 1.0), failed(BAD, 3.0), ending(End.KILLED)]) == BAD
    assert first([failed(BAD, 3.0), failed(Failure("earlier", 70), 2.0)]) == Failure("earlier", 70)
    assert first([ending(End.KILLED)]) is None


def test_storage_that_is_away_does_not_stop_the_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchrelay.contract.errors import StorageError

    court = Court(tmp_path)

    def away(*_: object) -> bytes:
        raise StorageError("away")

    for name in ("read", "list", "create", "open"):
        monkeypatch.setattr(LocalStorage, name, away)
    assert court.verdict(failed()) == Verdict()
    assert court.verdict(failed()).exit_code == 70
    assert any("the outcome cannot be written" in line for line in court.said)
