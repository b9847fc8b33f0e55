"""How a rank makes itself known: signal handlers, its registration with the supervisor, and dying with its parent.

Imports no torch, so that a program can `enter()` before its heavy imports and be stoppable while they run.
"""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

from torchrelay.contract import environment, reports
from torchrelay.signals import StopSignals

_TOUCH_EVERY_S = 1.0
_PR_SET_PDEATHSIG = 1
_present: "Presence | None" = None


class Presence:
    """The process as its supervisor sees it. `registration` is None without a supervisor."""

    def __init__(self, signals: StopSignals, registration: Path | None) -> None:
        self.signals = signals
        self.registration = registration
        self._touched = time.monotonic()

    @property
    def supervised(self) -> bool:
        return self.registration is not None

    def touch(self, now: float) -> bool:
        """Tell the watchdog that there is progress; does something at most once per second, and says whether."""
        if now - self._touched < _TOUCH_EVERY_S:
            return False
        self._touched = now
        if self.registration is not None:
            os.utime(self.registration)
        return True


def enter() -> Presence:
    """Take the stop signals, register with the supervisor and tie this process's life to torchrun's; once only."""
    global _present  # noqa: PLW0603 - handlers belong to the process, and so does this
    if _present is None:
        folder = os.environ.get(environment.REPORTS)
        signals = StopSignals(impatient=folder is None and sys.stderr is not None and sys.stderr.isatty())
        if threading.current_thread() is threading.main_thread():
            signals.install()
        if folder is not None:
            _die_with_parent()
        registration = reports.register(Path(folder), int(os.environ.get("RANK", "0"))) if folder else None
        _present = Presence(signals, registration)
    return _present


def leave() -> None:
    """Give the signals back. A supervised process keeps its handlers, so that a late signal does no harm."""
    global _present  # noqa: PLW0603 - see enter
    if _present is not None and not _present.supervised:
        _present.signals.restore()
        _present = None


def _die_with_parent() -> None:
    """Have the kernel kill this process when torchrun is gone, whatever became of it."""
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if parent == 1 or os.getppid() != parent:  # torchrun, whose parent is the supervisor, was gone before
        os._exit(1)
