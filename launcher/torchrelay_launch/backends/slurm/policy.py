"""Whether and how a run goes on after an attempt: a pure function of what its attempts came to."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Literal

from torchrelay.contract.exit_codes import ExitCode
from torchrelay_launch.backends.slurm.journal import End, Past
from torchrelay_launch.backends.slurm.states import BUDGETS, Cause
from torchrelay_launch.spec.models import Retries

FINAL_CODES = {
    Cause.COMPLETED: ExitCode.COMPLETED,
    Cause.STOPPED: ExitCode.PREEMPTED,
    Cause.SUPERSEDED: ExitCode.SUPERSEDED,
}


NEVER = "slurm.requeue is never"


class Next(StrEnum):
    """What follows an attempt."""

    FINISH = "finish"
    AGAIN = "again"  # another attempt in the same allocation, without going back to the queue
    SUBMIT = "submit"  # another attempt as a job that waits in the queue


@dataclass(frozen=True)
class Verdict:
    """What follows, in words too. `exclude`: nodes that the next attempt must not get."""

    next: Next
    says: str
    exclude: list[str] = field(default_factory=list)


def decide(past: Sequence[Past], retries: Retries, *, allocation_left: bool) -> Verdict:
    """What follows the last of these attempts, which all have ended.

    `allocation_left`: whether its nodes are still the job's, all up, with time to go on.
    """
    last = past[-1]
    assert last.end is not None
    budget = BUDGETS.get(last.end.cause)
    if budget is None:
        return Verdict(Next.FINISH, f"ended by {last.end.cause}")
    spent = sum(1 for one in past if one.end is not None and BUDGETS.get(one.end.cause) == budget)
    allowed = getattr(retries, budget)
    if spent > allowed:
        times = f"{spent} time{'s' * (spent > 1)}"
        return Verdict(Next.FINISH, f"{last.end.cause}: it happened {times}, slurm.retries.{budget} is {allowed}")
    if _stuck(past):
        return Verdict(
            Next.FINISH, f"{last.end.cause}: two attempts in a row made no checkpoint, so a third would not either"
        )
    if allocation_left and last.end.cause is Cause.LOST:
        return Verdict(Next.AGAIN, f"{last.end.cause}: starting again on the same nodes ({spent} of {allowed})")
    return Verdict(Next.SUBMIT, f"{last.end.cause} ({spent} of {allowed})", failed_nodes(past))


def quicker(past: Sequence[Past], hold_s: float) -> Literal["chain", "requeue"]:
    """Which of the two brought this run back sooner the last time it was tried; of what was not, the least it takes.

    So a run begins with new jobs, and tries a requeue once a new job waited longer than the `hold_s` seconds for which
    Slurm holds a requeued one.
    """
    seen = {"chain": 0.0, "requeue": hold_s}
    for before, after in pairwise(past):
        if before.end is None or before.end.next_job != after.begin.job_id:
            continue  # resumed by somebody
        same_job = before.begin.job_id == after.begin.job_id
        if same_job and before.begin.restart_count == after.begin.restart_count:
            continue  # started again without the queue
        seen["requeue" if same_job else "chain"] = after.begin.at - before.end.at
    return "requeue" if seen["requeue"] < seen["chain"] else "chain"


def failed_nodes(past: Sequence[Past]) -> list[str]:
    """Nodes that failed in any attempt, each once, the newest first."""
    found: dict[str, None] = {}
    for one in reversed(past):
        if one.end is not None:
            found |= dict.fromkeys(one.end.failed_nodes)
    return list(found)


def _stuck(past: Sequence[Past]) -> bool:
    """Whether the last two attempts both ended where they began."""
    return len(past) >= 2 and all(one.end is not None and not _moved(one, one.end) for one in past[-2:])


def _moved(one: Past, end: End) -> bool:
    before = -math.inf if one.begin.step is None else one.begin.step
    return end.step is not None and end.step > before
