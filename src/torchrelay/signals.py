"""The signals by which a rank is told to stop. A handler only notes that it was called. Imports no torch."""

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
DUMP_SIGNAL = signal.SIGUSR2
_SAME_KEY_PRESS_S = 1.0  # a terminal's Ctrl-C comes twice, from the terminal and from torchrun


class StopSignals:
    """What this process has been told. `received` is the number of the first stop signal, 0 before one."""

    def __init__(self, *, impatient: bool) -> None:
        self.received = 0
        self._impatient = impatient
        self._first_interrupt: float | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take over the stop signals, and let SIGUSR2 print the stacks of all threads. Main thread only."""
        for number in STOP_SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        if sys.__stderr__ is not None:
            faulthandler.register(DUMP_SIGNAL, file=sys.__stderr__, all_threads=True, chain=False)

    def restore(self) -> None:
        """Give the signals back to whoever had them before."""
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
        faulthandler.unregister(DUMP_SIGNAL)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = self.received or number
        if number == signal.SIGINT and self._impatient:
            now = time.monotonic()
            if self._first_interrupt is None:
                self._first_interrupt = now
            elif now - self._first_interrupt > _SAME_KEY_PRESS_S:
                os._exit(130)  # the second Ctrl-C at a terminal: now


def name_of(number: int) -> str:
    """SIGTERM for 15, and so on."""
    return signal.Signals(number).name


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold the stop signals back until this is left. A process that is started meanwhile begins with them blocked."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def worker_init(_worker: int = 0) -> None:
    """Make a DataLoader worker outlive stop signals, so that its rank can finish the step and save.

    A signal to the whole process group would otherwise kill the workers, and the last save with them. SIGTERM from
    the rank itself still ends the worker: that is how Python ends its children at exit. Until this is called a worker
    has torch's handler, which ends it; `torchrelay.DataLoader` therefore starts it with the signals held.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    signal.signal(DUMP_SIGNAL, signal.SIG_IGN)
    threading.Thread(target=_heed_only_parent, args=(os.getppid(),), name="stop signals", daemon=True).start()


def _heed_only_parent(parent: int) -> None:
    while True:
        heard = signal.sigwaitinfo(STOP_SIGNALS)
        if heard.si_signo == signal.SIGTERM and heard.si_pid == parent:
            os._exit(0)
