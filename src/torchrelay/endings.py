"""How a rank ends: what it prints, reports to its supervisor and writes to storage, and with which code it exits."""

import contextlib
import logging
import os
import re
import sys
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import NoReturn

import torch.distributed as dist

from torchrelay import presence
from torchrelay.attempt import Attempt
from torchrelay.contract import environment, layout, records, reports
from torchrelay.contract.errors import PeerLostError, SupersededError, TorchrelayError
from torchrelay.contract.exit_codes import ExitCode, outcome_of
from torchrelay.contract.records import Failure, OutcomeRecord
from torchrelay.contract.reports import RankReport
from torchrelay.observe import Observer
from torchrelay.world import World

log = logging.getLogger(__name__)
_LEAVE_TOGETHER_S = 60.0
_FINISH_TOGETHER_S = 1800.0
_GONE = re.compile(
    r"connection (closed|reset|refused)|broken pipe|gloo/transport|socket (closed|error)|remote process exited"
    r"|timed out (waiting|after)|failed to (connect|recv|send)|ncclremoteerror|process group.*aborted",
    re.IGNORECASE,
)


@dataclass
class Ending:
    """What is known of this rank when it comes to an end; filled in while it attaches."""

    rank: int = 0
    world_size: int = 1
    node: int = 0
    step: int | None = None
    attempt: Attempt | None = None
    world: World | None = None
    observer: Observer | None = None
    owns_group: bool = False

    @classmethod
    def of_environment(cls) -> "Ending":
        """What torchrun's environment says, before anything has been set up."""
        node = os.environ.get(environment.NODE, os.environ.get("GROUP_RANK", "0"))
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")), int(node))

    def completed(self) -> None:
        """All steps are done, on this rank. Raises: PeerLostError, StorageError.

        Collective: yes
        """
        if self.world is not None:
            self.world.barrier(_FINISH_TOGETHER_S)
        self._close(ExitCode.COMPLETED, None)

    def stopped(self) -> None:
        """Everything is saved after a request to stop.

        Collective: yes
        """
        if self.world is not None:
            try:
                self.world.barrier(_LEAVE_TOGETHER_S)
            except (TorchrelayError, RuntimeError) as error:
                log.warning("leaving without the other ranks: %s", error)
        self._close(ExitCode.PREEMPTED, None)

    def failed(self, error: BaseException) -> NoReturn:
        """Say what went wrong, everywhere that somebody will look, and end this process."""
        failure = failure_of(error, self)
        with contextlib.suppress(Exception):  # nothing may hide the failure itself
            self._report(failure.exit_code, failure)
        _print(error, failure)
        if not isinstance(error, SupersededError):
            with contextlib.suppress(Exception):
                self._write_down(failure)
        if self.world is not None and not failure.peer_lost:
            with contextlib.suppress(Exception):
                self.world.tell_failing()
        if self.world_size > 1 or environment.REPORTS in os.environ:
            _exit_now(failure.exit_code)
        self._release()
        raise SystemExit(failure.exit_code) from error

    def _close(self, code: ExitCode, failure: Failure | None) -> None:
        if self.rank == 0:
            if self.observer is not None:
                self.observer.events.write("ended", step=self.step, outcome=outcome_of(code), exit_code=int(code))
                self.observer.close()
            self._outcome(code, failure)
        self._report(code, failure)
        self._release()

    def _release(self) -> None:
        """Give the process back to a program that may go on."""
        if self.owns_group and dist.is_initialized():
            dist.destroy_process_group()
        presence.leave()

    def _write_down(self, failure: Failure) -> None:
        if self.observer is not None:
            outcome = outcome_of(failure.exit_code)
            self.observer.events.write("ended", step=self.step, outcome=outcome, exit_code=failure.exit_code)
            self.observer.close()
        if self.attempt is not None and not self.attempt.supervised:
            self._outcome(failure.exit_code, failure)

    def _outcome(self, code: int, failure: Failure | None) -> None:
        """Write the attempt's outcome unless somebody has."""
        if self.attempt is None:
            return
        writer = self.attempt.writer
        record = OutcomeRecord(outcome_of(code), int(code), time.time(), self.step, failure, writer.restart)
        with contextlib.suppress(FileExistsError):
            self.attempt.storage.create(layout.attempt_file(writer.attempt, "outcome"), records.dump(record))

    def _report(self, code: int, failure: Failure | None) -> None:
        folder = os.environ.get(environment.REPORTS)
        if folder is not None:
            reports.report(Path(folder), RankReport(self.rank, int(code), time.time(), failure))


def failure_of(error: BaseException, ending: Ending) -> Failure:
    """An exception as the record of a failure."""
    peer_lost = is_peer_lost(error)
    if peer_lost and not isinstance(error, PeerLostError):
        text = f"lost contact with another rank: {_without_source(str(error).splitlines()[0])}"
    elif isinstance(error, TorchrelayError):
        text = str(error)
    else:
        text = _summary(error)
    trace = "" if isinstance(error, TorchrelayError) else "".join(traceback.format_exception(error))
    retryable = error.retryable if isinstance(error, TorchrelayError) else True
    code = _exit_code(error)
    return Failure(text, code, ending.rank, ending.node, ending.step, trace, retryable, peer_lost)


def is_peer_lost(error: BaseException) -> bool:
    """Whether an error only says that another rank is gone: a broken connection of gloo, NCCL or the store."""
    if isinstance(error, PeerLostError | dist.DistNetworkError | dist.DistStoreError):
        return True
    return isinstance(error, RuntimeError) and _GONE.search(str(error)) is not None


def is_clean_exit(error: BaseException) -> bool:
    """Whether an error is no more than a program that ends, and well."""
    return isinstance(error, SystemExit) and error.code in (None, 0)


def _without_source(text: str) -> str:
    """Gloo's message without the line of its source and the advice that follows."""
    return re.sub(r"^\[\S+:\d+\] ", "", text).partition(". This is typically")[0]


def _exit_code(error: BaseException) -> int:
    if isinstance(error, TorchrelayError):
        return int(error.exit_code)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    return 130 if isinstance(error, KeyboardInterrupt) else int(ExitCode.FAILED)


def _summary(error: BaseException) -> str:
    """`ValueError: text (train.py:12)`, with the last line of the user's own code, if there is one."""
    text = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, SystemExit):
        text = f"the program called exit: {error.code}"
    place = _users_line(error.__traceback__)
    return f"{text} ({place})" if place else text


def _users_line(trace: TracebackType | None) -> str:
    own = (os.sep + "site-packages" + os.sep, str(Path(__file__).parent) + os.sep, sys.prefix + os.sep)
    frames = [f for f in traceback.extract_tb(trace) if not any(part in f.filename for part in own)]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames else ""


def _print(error: BaseException, failure: Failure) -> None:
    if isinstance(error, SystemExit):
        if isinstance(error.code, str):
            sys.stderr.write(error.code + "\n")
    elif isinstance(error, TorchrelayError) or failure.peer_lost:
        who = "" if failure.error.startswith("rank ") else f"rank {failure.rank}: "
        sys.stderr.write(f"torchrelay: {who}{failure.error}\n")
    else:
        sys.stderr.write(failure.traceback)


def _exit_now(code: int) -> NoReturn:
    """Leave without destructors: with a peer gone, those of process groups can wait for ever."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    logging.shutdown()
    os._exit(code)
