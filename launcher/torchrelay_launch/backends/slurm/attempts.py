"""Which attempt a job is for, and claiming the one after: everything here holds however often Slurm starts the job."""

import dataclasses
import os
import socket
import time
from dataclasses import dataclass

from torchrelay.contract import layout, records, settings
from torchrelay.contract.errors import ConfigError, StorageError, SupersededError
from torchrelay.contract.exit_codes import ExitCode, Outcome
from torchrelay.contract.records import AttemptRecord, Failure, Heartbeat, SpecRecord
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.slurm import causes, client, journal, policy
from torchrelay_launch.backends.slurm.journal import Begin, End
from torchrelay_launch.backends.slurm.policy import Next
from torchrelay_launch.backends.slurm.states import Cause
from torchrelay_launch.runs import inheriting
from torchrelay_launch.spec.models import JobSpec

# Ends that leave the run resumable, rather than failed, where no supervisor could write an outcome.
_GOES_ON = {Cause.PREEMPTED, Cause.TIME_LIMIT, Cause.REQUEUED, Cause.STOPPED}


@dataclass(frozen=True)
class Start:
    """One start of a job by Slurm; a requeued job starts again with a higher count."""

    job_id: str
    restart_count: int
    nodes: list[str]  # node 0 first

    @classmethod
    def from_environment(cls) -> "Start":
        """The start that this process belongs to. Raises: ConfigError outside a job; SchedulerError."""
        try:
            job_id, nodes = _job_id(), os.environ["SLURM_JOB_NODELIST"]
        except KeyError as error:
            raise ConfigError(f"{error} is not set: this is started by a batch script, inside a Slurm job") from None
        return cls(job_id, int(os.environ.get("SLURM_RESTART_COUNT", "0")), client.hostnames(nodes))


def _job_id() -> str:
    """The job, by the name that Slurm's commands take for it alone: one task of an array has the id of the whole."""
    if "SLURM_ARRAY_TASK_ID" in os.environ:
        return f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    return os.environ["SLURM_JOB_ID"]


@dataclass(frozen=True)
class Task:
    """One attempt that a job runs."""

    number: int
    job: JobSpec
    begin: Begin


def find(storage: Storage, start: Start, submitted: int) -> int:
    """The attempt to run: the one that the job was submitted for or, requeued, the one after the last it ran.

    Raises: SupersededError if the run belongs to another job now, or does not go on; TorchrelayError.
    """
    newest = records.attempt_numbers(storage)[-1]
    record = record_of(storage, newest)
    begun = journal.read_begin(storage, newest)
    if newest == submitted or record.backend_id == start.job_id:
        if begun is None:
            return newest
        if begun.job_id == start.job_id and begun.restart_count < start.restart_count:
            return _after_requeue(storage, start, Task(newest, spec_of(storage, newest), begun))
    holder = begun.job_id if begun else record.backend_id
    raise SupersededError(
        f"attempt {newest} of the run is job {holder or 'of another backend'}; this is {start.job_id}"
    )


def begin(storage: Storage, start: Start, number: int) -> Task:
    """Take the attempt. Raises: SupersededError if another start of a job was first; ConfigError, StorageError."""
    inheriting.complete(storage, number)
    job = spec_of(storage, number)
    beginning = Begin(start.job_id, start.restart_count, start.nodes, time.time(), journal.newest_step(storage))
    if not journal.write_begin(storage, number, beginning):
        raise SupersededError(f"attempt {number} was taken by another start of a job")
    if record_of(storage, number).backend_id != start.job_id:
        journal.set_backend_id(storage, number, start.job_id)
    return Task(number, job, beginning)


def claim_next(storage: Storage, after: int, job_id: str) -> int:
    """Claim the attempt that follows, for `job_id` until another job has it. Raises: SupersededError; StorageError."""
    old = record_of(storage, after)
    record = dataclasses.replace(
        old,
        number=after + 1,
        created_at=time.time(),
        host=socket.gethostname(),
        backend_id=job_id,
        resume_from=None,
    )
    inheriting.claim(storage, record)
    return record.number


def conclude_silent(storage: Storage, number: int, cause: Cause, why: str) -> None:
    """Write the outcome of an attempt that ended without one."""
    if cause in _GOES_ON:
        journal.conclude(storage, number, Outcome.PREEMPTED, None, int(ExitCode.PREEMPTED))
    else:
        failure = Failure(f"{why} ({cause})", int(ExitCode.KILLED))
        journal.conclude(storage, number, Outcome.FAILED, failure, failure.exit_code)


def record_of(storage: Storage, number: int) -> AttemptRecord:
    """Raises: StorageError if there is none."""
    record = records.read(storage, AttemptRecord, layout.attempt_file(number, "attempt"))
    if record is None:
        raise StorageError(f"attempt {number} of {storage.url} has no record")
    return record


def spec_of(storage: Storage, number: int) -> JobSpec:
    """Raises: StorageError if there is none."""
    spec = records.read(storage, SpecRecord, layout.attempt_file(number, "spec"))
    if spec is None:
        raise StorageError(f"attempt {number} of {storage.url} has no spec")
    return settings.from_json(JobSpec, spec.spec)


def _after_requeue(storage: Storage, start: Start, task: Task) -> int:
    """Slurm requeued the job by itself; the attempt before may have ended without a word."""
    if journal.read_end(storage, task.number) is None:
        _conclude_requeued(storage, start, task)
    verdict = policy.decide(journal.history(storage), task.job.slurm.retries, allocation_left=False)
    if verdict.next is Next.FINISH:
        raise SupersededError(f"requeued, but the run does not go on: {verdict.says}")
    return claim_next(storage, task.number, start.job_id)


def _last_sign(storage: Storage, task: Task) -> float:
    """When an attempt that did not say its end was last heard of."""
    heartbeat = records.read(storage, Heartbeat, layout.attempt_file(task.number, "heartbeat"))
    return heartbeat.at if heartbeat else task.begin.at


def _conclude_requeued(storage: Storage, start: Start, task: Task) -> None:
    """Find out after the fact why Slurm requeued the job, with accounting if there is any."""
    evidence = causes.gather(storage, task.number, task.begin, causes.Words(), terminated=True)
    cause = causes.cause_of(evidence)
    starts = client.accounted(start.job_id)
    count = task.begin.restart_count
    state = starts[count][0] if len(starts) > count else ""
    if cause not in (Cause.COMPLETED, Cause.SUPERSEDED) and evidence.stop is None:
        cause = Cause.NODE_FAILURE if "NODE_FAIL" in state or evidence.failed_nodes else Cause.REQUEUED
        cause = Cause.PREEMPTED if "PREEMPTED" in state else cause
    why = f"Slurm requeued job {start.job_id}"
    conclude_silent(storage, task.number, cause, why)
    step = journal.newest_step(storage)
    ended_at = _last_sign(storage, task)
    end = End(cause, f"{why} ({cause})", ended_at, step, evidence.failed_nodes, start.job_id)
    journal.write_end(storage, task.number, end)
