"""Exit codes and outcomes. The numbers follow sysexits.h where it has a name for the case."""

from enum import IntEnum, StrEnum


class ExitCode(IntEnum):
    """How a rank, a node supervisor or the launcher ends; the same on every backend."""

    COMPLETED = 0
    NO_PROGRESS = 69  # EX_UNAVAILABLE: the watchdog saw no step for too long
    FAILED = 70  # EX_SOFTWARE: the user's code raised
    STORAGE = 74  # EX_IOERR
    PREEMPTED = 75  # EX_TEMPFAIL: stopped on request, checkpoint committed
    SUPERSEDED = 76  # EX_PROTOCOL: a newer attempt of the run exists
    CONFIG = 78  # EX_CONFIG: the spec, an import or the configuration is wrong
    KILLED = 137  # 128 + SIGKILL: ended without the chance to say anything

    @property
    def retryable(self) -> bool:
        """Whether starting the gang again can help."""
        return self not in _FINAL


_FINAL = {ExitCode.COMPLETED, ExitCode.PREEMPTED, ExitCode.SUPERSEDED, ExitCode.CONFIG}


class Outcome(StrEnum):
    """How an attempt ended."""

    COMPLETED = "completed"
    PREEMPTED = "preempted"
    FAILED = "failed"
    SUPERSEDED = "superseded"


class RunState(StrEnum):
    """What `status` shows for a run."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    PREEMPTED = "preempted"
    FAILED = "failed"
    STOPPED = "stopped"


def outcome_of(exit_code: int) -> Outcome:
    """The outcome that an attempt's exit code stands for."""
    named = {
        ExitCode.COMPLETED: Outcome.COMPLETED,
        ExitCode.PREEMPTED: Outcome.PREEMPTED,
        ExitCode.SUPERSEDED: Outcome.SUPERSEDED,
    }
    return named.get(ExitCode(exit_code), Outcome.FAILED) if exit_code in list(ExitCode) else Outcome.FAILED
