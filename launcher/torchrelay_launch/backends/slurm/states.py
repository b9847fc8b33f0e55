"""Slurm's words for the states of jobs and nodes, and what they mean here: literal tables."""

from enum import StrEnum

from torchrelay.contract.exit_codes import RunState

# squeue(1) and sacct(1), "JOB STATE CODES", up to 26.05
STATES = {
    "PENDING": RunState.PENDING,
    "CONFIGURING": RunState.PENDING,
    "REQUEUED": RunState.PENDING,
    "REQUEUE_FED": RunState.PENDING,
    "REQUEUE_HOLD": RunState.PENDING,
    "RESV_DEL_HOLD": RunState.PENDING,
    "SPECIAL_EXIT": RunState.PENDING,
    "RUNNING": RunState.RUNNING,
    "COMPLETING": RunState.RUNNING,
    "RESIZING": RunState.RUNNING,
    "SIGNALING": RunState.RUNNING,
    "STAGE_OUT": RunState.RUNNING,
    "STOPPED": RunState.RUNNING,
    "SUSPENDED": RunState.RUNNING,
    "COMPLETED": RunState.COMPLETED,
    "CANCELLED": RunState.STOPPED,
    "PREEMPTED": RunState.PREEMPTED,
    "BOOT_FAIL": RunState.FAILED,
    "DEADLINE": RunState.FAILED,
    "FAILED": RunState.FAILED,
    "NODE_FAIL": RunState.FAILED,
    "OUT_OF_MEMORY": RunState.FAILED,
    "REVOKED": RunState.FAILED,
    "TIMEOUT": RunState.FAILED,
}
ALIVE = {RunState.PENDING, RunState.RUNNING}

# Parts of a node's state (scontrol show node) that say that nothing runs there.
NODE_GONE = {"DOWN", "FAIL", "FAILING", "NOT_RESPONDING", "POWERED_DOWN", "POWERING_DOWN", "INVAL"}


class Cause(StrEnum):
    """What ended an attempt, as far as going on is concerned."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # `torchrelay stop`, `torchrelay cancel` or scancel
    TIME_LIMIT = "time limit"
    PREEMPTED = "preemption"
    REQUEUED = "requeue"  # by an administrator, or by Slurm for a reason that it keeps to itself
    NODE_FAILURE = "node failure"
    LOST = "lost supervisor"  # ended without a word, on nodes that are up
    FAILED = "failure"  # of the job itself; its restarts are used up
    SUPERSEDED = "superseded"


# The budget of slurm.retries that a cause draws on; without one the run is not submitted again.
BUDGETS = {
    Cause.TIME_LIMIT: "time_limit",
    Cause.PREEMPTED: "preemption",
    Cause.REQUEUED: "preemption",
    Cause.NODE_FAILURE: "node_failure",
    Cause.LOST: "node_failure",
}


def run_state(slurm_state: str) -> RunState:
    """`CANCELLED by 1000` and `CANCELLED+` are CANCELLED; a word of a later Slurm counts as running."""
    word = slurm_state.split(maxsplit=1)[0].rstrip("+") if slurm_state.split() else ""
    return STATES.get(word, RunState.RUNNING)


def node_gone(state: str) -> bool:
    """Whether a node's state, such as `DOWN*+DRAIN`, says that its jobs are lost."""
    return state.split("+", maxsplit=1)[0].endswith("*") or bool(
        {part.rstrip("*~#!%$@^-") for part in state.split("+")} & NODE_GONE
    )
