"""A save that goes on behind the training."""

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")
_NICER = 10  # leaves it a tenth of a core that others want too


class Pending(Generic[T]):
    """Work on a thread of its own, and what came of it. With `yielding`, others who want to compute come first."""

    def __init__(self, work: Callable[[], T], name: str, *, yielding: bool = False) -> None:
        self._work = work
        self._yielding = yielding
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._ended = threading.Event()
        # A daemon: whoever ends the process has waited for it, or cannot wait any longer.
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    @property
    def error(self) -> BaseException | None:
        """What went wrong, once it is done."""
        return self._error

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is done; whether it is."""
        return self._ended.wait(timeout_s)

    def result(self) -> T:
        """What the work returned. Waits for it. Raises: what it raised."""
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._result[0]

    def _run(self) -> None:
        try:
            if self._yielding:
                _yield_to_others()
            self._result.append(self._work())
        except BaseException as error:  # noqa: BLE001  # raised again by `result`, on the thread that asks
            self._error = error
        finally:
            del self._work
            self._ended.set()


def _yield_to_others() -> None:
    """Lower the priority of this thread, and of those that it starts: in Linux each has its own, see sched(7)."""
    if sys.platform == "linux":
        me = threading.get_native_id()
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, me, os.getpriority(os.PRIO_PROCESS, me) + _NICER)
