"""The one tree of errors of both packages, each with the exit code that it ends a process with.

    TorchrelayError            70  anything that has no better name
    ├── ConfigError            78  the spec, a target or its arguments, or the machine asked for: the user's to fix
    ├── StorageError           74  storage could not be read or written
    ├── CheckpointError        70  a checkpoint is damaged, or does not fit what is tracked
    ├── SupersededError        76  a newer attempt owns the run
    ├── DivergedError          70  the loss is not a number; running again would end the same way
    └── PeerLostError          70  another rank is gone, so no collective can finish; or node 0 does not answer

An error's text says what is wrong, where, and how to mend it, and is printed without a traceback.
"""

from torchrelay.contract.exit_codes import ExitCode


class TorchrelayError(Exception):
    """Root of all errors that torchrelay raises on purpose."""

    exit_code: ExitCode = ExitCode.FAILED
    retryable: bool = True


class ConfigError(TorchrelayError):
    """The user's spec, code import or request is wrong; never retried."""

    exit_code = ExitCode.CONFIG
    retryable = False


class StorageError(TorchrelayError):
    """The run's storage could not be read or written."""

    exit_code = ExitCode.STORAGE


class CheckpointError(TorchrelayError):
    """A checkpoint is damaged, or its state does not fit the tracked objects."""


class CheckpointMismatchError(CheckpointError, ConfigError):
    """The checkpoint is sound, but belongs to another model or optimizer; never retried."""

    exit_code = ExitCode.CONFIG
    retryable = False


class SupersededError(TorchrelayError):
    """A newer attempt owns the run; this one must not write any more."""

    exit_code = ExitCode.SUPERSEDED
    retryable = False


class DivergedError(TorchrelayError):
    """The loss is NaN or infinite. Training is deterministic, so a retry would come to the same."""

    retryable = False


class PeerLostError(TorchrelayError):
    """Another rank, or the supervisor of node 0, is gone; what happened to that one is the cause to look at."""
