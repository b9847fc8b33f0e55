"""Which attempt a start of a job runs, from the run's records."""

from pathlib import Path

import pytest

from torchrelay.contract import layout
from torchrelay.contract.errors import SupersededError
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.slurm import attempts, journal
from torchrelay_launch.backends.slurm.attempts import Start
from torchrelay_launch.backends.slurm.journal import End
from torchrelay_launch.backends.slurm.states import Cause
from torchrelay_launch.runs.claims import claim_attempt, create_run
from torchrelay_launch.spec.models import JobSpec

JOB = JobSpec(name="digits", script="train.py")
START = Start("38", 0, ["n1", "n2"])


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    """A run whose first attempt has begun as job 38, and lost a supervisor."""
    storage = create_run(str(tmp_path), JOB)
    claim_attempt(storage, JOB, {}, "slurm", "/w", 0)
    assert attempts.find(storage, START, 1) == 1
    assert attempts.begin(storage, START, 1).job == JOB
    journal.write_end(storage, 1, End(Cause.LOST, "lost supervisor", 0.0, next_job="38"))
    return storage


def test_an_attempt_is_begun_once(run: Storage) -> None:
    with pytest.raises(SupersededError, match="taken by another start"):
        attempts.begin(run, START, 1)
    with pytest.raises(SupersededError, match="attempt 1 of the run is job 38; this is 39"):
        attempts.find(run, Start("39", 0, ["n1"]), 1)


def test_what_a_job_claimed_has_the_spec_of_the_attempt_before(run: Storage) -> None:
    assert attempts.claim_next(run, 1, "38") == 2
    assert attempts.begin(run, START, 2).job == JOB
    assert attempts.record_of(run, 2).backend_id == "38"
    with pytest.raises(SupersededError, match="attempt 2 was claimed by somebody else"):
        attempts.claim_next(run, 1, "38")


def test_a_job_that_died_as_it_claimed_the_next_attempt_takes_it_up(run: Storage) -> None:
    attempts.claim_next(run, 1, "38")
    run.delete(layout.attempt_file(2, "spec"))  # what is written last
    again = Start("38", 1, ["n1", "n2"])
    assert attempts.find(run, again, 1) == 2
    assert attempts.begin(run, again, 2).job == JOB
