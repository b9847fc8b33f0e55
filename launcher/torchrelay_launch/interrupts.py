"""Signals to a launcher that follows a run: the first asks the run to stop, the second kills it."""

import signal
import time
from types import FrameType, TracebackType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """Counts the signals that arrive while it is entered. Handlers only count; whoever follows acts."""

    def __init__(self) -> None:
        self.count = 0
        self._earlier: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupts":
        self._earlier = {number: signal.signal(number, self._take) for number in STOP_SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._earlier.items():
            signal.signal(number, handler)

    def wait(self, seconds: float) -> None:
        """Sleep, but not after a signal that has just come."""
        before, until = self.count, time.monotonic() + seconds
        while self.count == before and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))

    def _take(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - the signature of a handler
        self.count += 1
