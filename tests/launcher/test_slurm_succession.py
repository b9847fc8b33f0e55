"""Handing a run on, with Slurm's commands replaced: what is asked of it, and what when it refuses."""

from pathlib import Path
from types import SimpleNamespace
from typing import Literal

import pytest

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.storage import open_storage
from torchrelay_launch.backends.slurm import client, journal
from torchrelay_launch.backends.slurm import succession as succession_module
from torchrelay_launch.backends.slurm.attempts import Start, Task
from torchrelay_launch.backends.slurm.client import SchedulerAwayError
from torchrelay_launch.backends.slurm.journal import Begin, End
from torchrelay_launch.backends.slurm.states import Cause
from torchrelay_launch.backends.slurm.succession import Succession
from torchrelay_launch.runs.claims import new_attempt
from torchrelay_launch.spec.models import JobSpec, Slurm

SUBMITTED = "9"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What is asked of Slurm, which takes new jobs, refuses requeues and would hold one for a minute."""
    found: list[tuple[str, ...]] = []

    def submit(*argv: str, options: list[str]) -> str:
        found.append(("sbatch", *options))
        return SUBMITTED

    def call(*argv: str) -> str:
        found.append(argv)
        raise ConfigError("Slurm refuses: Requested operation is presently disabled")

    monkeypatch.setattr(client, "submit", submit)
    monkeypatch.setattr(client, "call", call)
    monkeypatch.setattr(client, "config", lambda _limit_s: {"AuthInfo": "socket=/run/munge,cred_expire=60"})
    monkeypatch.setattr(client, "show", lambda _kind, _name: {"Restarts": "0"})
    return found


def succession(folder: Path, mode: Literal["auto", "requeue"], waited_s: float) -> Succession:
    """From attempt 2, job 2, which began `waited_s` after attempt 1 had handed on to it."""
    storage = open_storage(str(folder))
    job = JobSpec(name="j", script="train.py", slurm=Slurm(requeue=mode))
    begin = Begin("2", 0, ["n1"], 100.0 + waited_s)
    journal.write_begin(storage, 1, Begin("1", 0, ["n1"], 0.0))
    journal.write_end(storage, 1, End(Cause.TIME_LIMIT, "", 100.0, next_job="2"))
    journal.write_begin(storage, 2, begin)
    for number in (1, 2, 3):
        record = new_attempt(number, job, "slurm", str(folder))
        storage.create(layout.attempt_file(number, "attempt"), records.dump(record))
    return Succession(storage, Start("2", 0, ["n1"]), Task(2, job, begin), 3)


def test_a_new_job_that_came_soon_is_followed_by_another(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    assert succession(tmp_path, "auto", 5.0).hand_on([], preempted=False) == SUBMITTED
    assert asked == [("sbatch",)]


def test_a_new_job_that_waited_long_is_followed_by_a_requeue(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    assert succession(tmp_path, "auto", 3600.0).hand_on([], preempted=False) == "2"
    assert asked == []


def test_how_long_slurm_holds_a_requeued_job_comes_from_its_settings(tmp_path: Path) -> None:
    assert succession(tmp_path / "soon", "auto", 50.0).hand_on([], preempted=False) == SUBMITTED
    assert succession(tmp_path / "late", "auto", 70.0).hand_on([], preempted=False) == "2"


def test_a_slurmctld_that_is_away_leaves_the_hold_as_it_is_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_limit_s: float) -> dict[str, str]:
        raise SchedulerAwayError("slurmctld does not answer")

    monkeypatch.setattr(client, "config", away)
    assert succession(tmp_path / "soon", "auto", 110.0).hand_on([], preempted=False) == SUBMITTED
    assert succession(tmp_path / "late", "auto", 130.0).hand_on([], preempted=False) == "2"


@pytest.mark.parametrize(
    ("settings", "hold_s"),
    [
        ({}, 120.0),
        ({"AuthInfo": "(null)", "SchedulerParameters": "(null)"}, 120.0),
        ({"AuthInfo": "cred_expire=300"}, 300.0),
        ({"AuthInfo": "socket=/run/munge,cred_expire=30"}, 30.0),
        ({"AuthInfo": "cred_expire=300", "SchedulerParameters": "bf_interval=2,requeue_delay=5"}, 5.0),
    ],
)
def test_the_hold_as_slurm_is_configured(settings: dict[str, str], hold_s: float) -> None:
    assert client.requeue_hold_s(settings) == hold_s


def test_a_failed_node_can_only_be_left_out_of_a_new_job(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    assert succession(tmp_path, "auto", 3600.0).hand_on(["n1"], preempted=False) == SUBMITTED
    assert asked == [("sbatch", "--exclude=n1")]


def test_where_a_requeue_is_refused_auto_submits(tmp_path: Path, asked: list[tuple[str, ...]]) -> None:
    handing = succession(tmp_path, "auto", 3600.0)
    handing.let_go("2")
    assert asked == [("scontrol", "requeue", "2"), ("sbatch",)]
    record = records.read(handing.storage, records.AttemptRecord, layout.attempt_file(3, "attempt"))
    assert record is not None
    assert record.backend_id == SUBMITTED


def test_where_a_requeue_was_asked_for_its_refusal_ends_the_run(tmp_path: Path) -> None:
    handing = succession(tmp_path, "requeue", 5.0)
    with pytest.raises(ConfigError, match="presently disabled"):
        handing.let_go("2")
    outcome = journal.outcome_of(handing.storage, 3)
    assert outcome is not None
    assert outcome.failure is not None
    assert "does not take the next attempt" in outcome.failure.error


@pytest.mark.parametrize("asked_of", [2, 3])
@pytest.mark.parametrize("mode", ["auto", "requeue"])
def test_a_stop_that_comes_while_the_run_is_handed_on_ends_it(
    tmp_path: Path,
    asked: list[tuple[str, ...]],
    mode: Literal["auto", "requeue"],
    asked_of: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cancelled: list[str] = []
    monkeypatch.setattr(client, "cancel", cancelled.extend)
    handing = succession(tmp_path, mode, 5.0)
    next_job = handing.hand_on([], preempted=False)
    request = records.StopRequest("cancel", 0.0, "me")
    handing.storage.create(layout.attempt_file(asked_of, "stop"), records.dump(request))
    handing.let_go(next_job)
    outcome = journal.outcome_of(handing.storage, 3)
    assert outcome is not None
    assert outcome.outcome is Outcome.PREEMPTED
    assert records.read(handing.storage, records.StopRequest, layout.attempt_file(3, "stop")) == request
    assert cancelled == ([SUBMITTED] if mode == "auto" else [])
    assert ("scontrol", "requeue", "2") not in asked


def test_a_slurm_that_is_away_is_asked_again_but_not_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, back_at = [0.0], [100.0]

    def submit(*_argv: str, options: list[str]) -> str:
        if now[0] < back_at[0]:
            raise SchedulerAwayError("slurmctld does not answer")
        return SUBMITTED

    monkeypatch.setattr(client, "submit", submit)
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds))
    monkeypatch.setattr(client, "time", clock)
    monkeypatch.setattr(succession_module, "time", clock)
    own = succession(tmp_path, "auto", 5.0)
    assert own.hand_on([], preempted=False) == SUBMITTED
    assert now[0] <= back_at[0] + client.LONGEST_WAIT_S
    back_at[0] = 10_000.0
    assert own.hand_on(["n1"], preempted=False) == "2"  # what is left is a requeue of this job
    with pytest.raises(ConfigError):
        own.let_go("2")
    assert now[0] <= succession_module.PATIENCE_S
    outcome = journal.outcome_of(own.storage, 3)
    assert outcome is not None
    assert outcome.outcome is Outcome.FAILED
