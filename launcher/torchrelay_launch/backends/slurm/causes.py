"""What ended an attempt: from its outcome, the stop requests, and what Slurm says of the job and its nodes.

While a job is completing, its record no longer says why: a requeue after a preemption looks like any other. But Slurm
says it in the job's own output, in words that have been the same for many versions.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from torchrelay.contract import layout, records
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.exit_codes import ExitCode, Outcome
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
    because: Cause | None = None  # as Slurm says in the job's output
    srun_code: int | None = None  # None where it was not waited for


@dataclass(frozen=True)
class Words:
    """What Slurm wrote into a job's output since it started."""

    because: Cause | None = None
    failed_nodes: tuple[str, ...] = ()


# slurmstepd's words for why it ends a step (src/slurmd/slurmstepd/req.c)
_BECAUSE = {
    "TIME LIMIT": Cause.TIME_LIMIT,
    "PREEMPTION": Cause.PREEMPTED,
    "NODE FAILURE": Cause.NODE_FAILURE,
    "JOB REQUEUE": Cause.REQUEUED,
    "JOB NODE FAILURE": Cause.NODE_FAILURE,
}
_CANCELLED = re.compile(r"error: \*\*\* (?:JOB|STEP) \S+ ON \S+ CANCELLED AT \S+ DUE TO ([A-Z ]+)")
_NODE_FAILURE = re.compile(r"srun: error: Node failure on (\S+)")
_ENOUGH_BYTES = 1 << 16


def read_words(output: Path, offset: int) -> Words:
    """Slurm's words in a job's output from an offset on; nothing if it cannot be read."""
    try:
        with output.open("rb") as file:
            file.seek(max(offset, file.seek(0, 2) - _ENOUGH_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return Words()
    causes = [_BECAUSE[said.strip()] for said in _CANCELLED.findall(text) if said.strip() in _BECAUSE]
    nodes = [name for said in _NODE_FAILURE.findall(text) for name in _names(said)]
    return Words(causes[-1] if causes else None, tuple(dict.fromkeys(nodes)))


def gather(storage: Storage, attempt: int, begin: journal.Begin, words: Words, *, terminated: bool) -> Evidence:
    """Collect the evidence. What Slurm does not answer counts as not known. Raises: StorageError."""
    down = [node for node in begin.nodes if node_gone(_asked("node", node).get("State", ""))]
    return Evidence(
        outcome=journal.outcome_of(storage, attempt),
        stop=records.read(storage, StopRequest, layout.attempt_file(attempt, "stop")),
        terminated=terminated,
        job=_asked("job", begin.job_id),
        restart_count=begin.restart_count,
        failed_nodes=list(dict.fromkeys([*words.failed_nodes, *down])),
        because=words.because,
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
    if outcome is Outcome.PREEMPTED:  # the ranks have saved; where nobody told them to, their supervisor was killed
        return Cause.TIME_LIMIT if found.srun_code in (None, 0, ExitCode.PREEMPTED) else Cause.LOST
    return Cause.FAILED if found.outcome is not None and not _lost(found.outcome) else Cause.LOST


def _terminated(found: Evidence) -> Cause:
    """Slurm ends the job: why, it says in the job's output, or its record tells."""
    if found.because is not None:
        return found.because
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


def _names(host_list: str) -> list[str]:
    try:
        return client.hostnames(host_list)
    except TorchrelayError:
        return [host_list]


def _asked(kind: str, name: str) -> dict[str, str]:
    try:
        return client.show(kind, name)
    except TorchrelayError:
        return {}
