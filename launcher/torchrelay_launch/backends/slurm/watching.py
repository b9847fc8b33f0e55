"""How an attempt stands, as Slurm sees it: what a run's storage alone cannot tell."""

import time

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.records import AttemptRecord, OutcomeRecord
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.slurm import client, journal
from torchrelay_launch.backends.slurm.client import Job, SchedulerAwayError, SchedulerError
from torchrelay_launch.backends.slurm.policy import NEVER
from torchrelay_launch.backends.slurm.states import ALIVE, BUDGETS, run_state
from torchrelay_launch.runs.observed import Observed

# For a batch script to write down how the run goes on, and for a shared file system to show it here, whatever Slurm
# says of the job meanwhile.
DECIDES_S = 15.0


def observe(storage: Storage, attempt: int) -> Observed | None:
    """What Slurm says of an attempt; None if it adds nothing, or cannot be asked from here. Raises: StorageError."""
    while (job_id := _job_of(storage, attempt)) is not None:
        found = _ask(storage, attempt, job_id)
        # The attempt may have been handed to another job while Slurm was asked for the one that ends with that.
        if (found is not None and found.live) or _job_of(storage, attempt) == job_id:
            return found
    return None


def _job_of(storage: Storage, attempt: int) -> str | None:
    record = records.read(storage, AttemptRecord, layout.attempt_file(attempt, "attempt"))
    return record.backend_id or None if record else None


def _ask(storage: Storage, attempt: int, job_id: str) -> Observed | None:
    begun = journal.read_begin(storage, attempt) is not None
    outcome = journal.outcome_of(storage, attempt)
    try:
        if outcome is None:
            job = client.find_job(job_id) or _from_accounting(job_id)
            outcome = journal.outcome_of(storage, attempt)  # it may have come while Slurm was asked
            if job and run_state(job.state) in ALIVE:
                return observed(job, begun=begun)
            if outcome is None and not begun and _handed_on_soon(storage, attempt, job_id):
                return _deciding(job_id)
            if outcome is None:
                unknown = Observed(RunState.FAILED, error=f"Slurm no longer knows job {job_id}")
                return observed(job, begun=begun) if job else unknown
        if begun and journal.read_end(storage, attempt) is None and _alive(job_id):
            return _deciding(job_id)
    except SchedulerAwayError as error:
        return Observed(RunState.RUNNING if outcome is not None and begun else None, str(error), unreachable=True)
    except (SchedulerError, ConfigError):
        if outcome is None:
            return None
    return _after_outcome(storage, attempt, outcome, job_id) if begun else None


def _handed_on_soon(storage: Storage, attempt: int, job_id: str) -> bool:
    """Whether the job that ran the attempt before claimed this one just now, and has yet to find the job for it."""
    before = journal.read_begin(storage, attempt - 1)
    record = records.read(storage, AttemptRecord, layout.attempt_file(attempt, "attempt"))
    if before is None or record is None or before.job_id != job_id:
        return False
    return abs(time.time() - record.created_at) < DECIDES_S


def observed(job: Job, *, begun: bool) -> Observed:
    """The state that a job's state stands for, for an attempt without an outcome."""
    state = run_state(job.state)
    if state is RunState.PENDING:
        return Observed(state, f"job {job.job_id} waits{_why(job)}")
    if state is RunState.RUNNING:
        where = f" on {job.nodes}" if job.nodes else ""
        return Observed(state if begun else RunState.PENDING, f"job {job.job_id}{where}")
    ended = f"job {job.job_id} ended as {job.state}"
    if state is RunState.STOPPED:
        return Observed(state, ended)
    return Observed(RunState.FAILED, ended, f"{ended}{_why(job)} before the attempt could say how it ended")


def _after_outcome(storage: Storage, attempt: int, outcome: OutcomeRecord, job_id: str) -> Observed | None:
    """What the batch script has written down of how the run goes on."""
    end = journal.read_end(storage, attempt)  # written before the job ended, if at all
    if end is None:
        return _deciding(job_id) if abs(time.time() - outcome.at) < DECIDES_S else None
    if end.next_job:  # the next attempt is there, only not yet when the attempts were listed
        return Observed(RunState.PENDING, f"the run goes on as job {end.next_job}")
    if end.cause not in BUDGETS or end.says.endswith(NEVER):
        return None
    return Observed(RunState.FAILED, error=f"the run does not go on by itself: {end.says}; `torchrelay resume` does")


def _deciding(job_id: str) -> Observed:
    return Observed(RunState.RUNNING, f"job {job_id} decides how to go on")


def live_jobs(storage: Storage) -> list[str]:
    """Jobs of a run that are queued or running, by its records. Raises: StorageError."""
    found: dict[str, None] = {}
    for number in records.attempt_numbers(storage)[-2:]:
        record = records.read(storage, AttemptRecord, layout.attempt_file(number, "attempt"))
        if record is not None and record.backend == "slurm" and record.backend_id:
            found[record.backend_id] = None
    return [job_id for job_id in found if _alive(job_id)]


def _alive(job_id: str) -> bool:
    job = client.find_job(job_id)
    return job is not None and run_state(job.state) in ALIVE


def _why(job: Job) -> str:
    reason = f": {job.reason}" if job.reason else ""
    return reason + (f", expected to start at {job.expected_start}" if job.expected_start and reason else "")


def _from_accounting(job_id: str) -> Job | None:
    starts = client.accounted(job_id)
    return Job(job_id, starts[-1][0], nodes=starts[-1][2]) if starts else None
