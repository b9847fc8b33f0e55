"""What ended an attempt: from its outcome, the stop requests, and what Slurm says of the job and its nodes."""

import time
from dataclasses import dataclass

from torchrelay.contract import layout, records
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.records import OutcomeRecord, StopRequest
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.slurm import client, journal
from torchrelay_launch.backends.slurm.states import Cause, node_gone


@dataclass(frozen=True)
class Evidence:
    """What is known when an attempt has ended. `terminated`: whether Slurm has told the batch script to end."""

    outcome: OutcomeRecord | None
    stop: StopRequest | None
    terminated: bool
    job: dict[str, str]  # scontrol show job
    restart_count: int
    failed_nodes: list[str]
    now: float


def gather(storage: Storage, attempt: int, begin: journal.Begin, *, terminated: bool) -> Evidence:
    """Collect the evidence. What Slurm does not answer counts as not known. Raises: StorageError."""
    return Evidence(
        outcome=journal.outcome_of(storage, attempt),
        stop=records.read(storage, StopRequest, layout.attempt_file(attempt, "stop")),
        terminated=terminated,
        job=_asked("job", begin.job_id),
        restart_count=begin.restart_count,
        failed_nodes=[node for node in begin.nodes if node_gone(_asked("node", node).get("State", ""))],
        now=time.time(),
    )


def cause_of(found: Evidence) -> Cause:
    """The cause. What says most comes first: the run is complete, somebody asked, Slurm acted, a node went."""
    outcome = found.outcome.outcome if found.outcome else None
    if outcome is Outcome.COMPLETED:
        return Cause.COMPLETED
    if outcome is Outcome.SUPERSEDED:
        return Cause.SUPERSEDED
    if found.stop is not None:
        return Cause.STOPPED
    if found.failed_nodes:
        return Cause.NODE_FAILURE
    if found.terminated:
        return _terminated(found)
    if outcome is Outcome.PREEMPTED:
        return Cause.TIME_LIMIT
    return Cause.FAILED if found.outcome is not None and not _lost(found.outcome) else Cause.LOST


def _terminated(found: Evidence) -> Cause:
    """Slurm ends the job: why, its record tells while the job is still completing."""
    preempted = found.job.get("PreemptTime", "None") not in ("None", "")
    if preempted:
        return Cause.PREEMPTED
    if int(found.job.get("Restarts", "0") or 0) > found.restart_count:
        return Cause.REQUEUED
    return Cause.TIME_LIMIT if _over_time(found.job) else Cause.STOPPED


def _over_time(job: dict[str, str]) -> bool:
    limit, ran = _seconds(job.get("TimeLimit", "")), _seconds(job.get("RunTime", ""))
    return limit is not None and ran is not None and ran >= limit


def _seconds(text: str) -> float | None:
    """Seconds of [days-]hours:minutes:seconds; None for UNLIMITED and the like."""
    days, _, clock = text.rpartition("-")
    try:
        hours, minutes, seconds = (int(part) for part in clock.split(":"))
        return int(days or 0) * 86400 + hours * 3600 + minutes * 60 + seconds
    except ValueError:
        return None


def _lost(outcome: OutcomeRecord) -> bool:
    """Whether the attempt failed only because a supervisor went away, which is not the job's fault."""
    failure = outcome.failure
    return failure is not None and failure.rank is None and " was lost: " in failure.error


def _asked(kind: str, name: str) -> dict[str, str]:
    try:
        return client.show(kind, name)
    except TorchrelayError:
        return {}
