"""What the supervisor asks of the Linux kernel, and reaping and ending all that descends from it."""

import asyncio
import ctypes
import logging
import os
import signal
import time
from collections.abc import Set

from torchrelay_launch import processes

logger = logging.getLogger(__name__)

PR_SET_CHILD_SUBREAPER = 36
KILL_PATIENCE_S = 10.0  # a process in uninterruptible sleep cannot be killed; do not wait for it for ever


def become_subreaper() -> None:
    """Have orphaned descendants handed to this process rather than to init, so that they can be found and ended."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        logger.warning("cannot adopt orphaned processes (%s)", os.strerror(ctypes.get_errno()))


class Children:
    """Exit codes of this process's children, its own and adopted ones, collected as they end."""

    def __init__(self) -> None:
        self._codes: dict[int, int] = {}
        self._awaited: dict[int, asyncio.Event] = {}

    def install(self, loop: asyncio.AbstractEventLoop) -> None:
        loop.add_signal_handler(signal.SIGCHLD, self.reap)

    def expect(self, pid: int) -> None:
        """Keep the exit code of this child for `ended`."""
        self._awaited[pid] = asyncio.Event()

    def code(self, pid: int) -> int | None:
        """Exit code of an expected child, -n if signal n ended it; None while it runs."""
        return self._codes.get(pid)

    async def ended(self, pid: int) -> int:
        """Wait for an expected child's exit code."""
        self.reap()
        await self._awaited[pid].wait()
        return self._codes[pid]

    def reap(self) -> None:
        """Collect whatever has ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._awaited:
                self._codes[pid] = os.waitstatus_to_exitcode(status)
                self._awaited[pid].set()


async def kill_all_below(children: Children, spare: Set[int] = frozenset()) -> list[int]:
    """SIGKILL every descendant of this process but `spare` until there is none. Returns those that would not die."""
    patience = time.monotonic() + KILL_PATIENCE_S
    while True:
        alive = [process.pid for process in processes.descendants(os.getpid()) if process.running]
        below = [pid for pid in alive if pid not in spare]
        for pid in below:
            processes.send(pid, signal.SIGKILL)
        await asyncio.sleep(0)
        children.reap()
        if not below:
            return []
        if time.monotonic() > patience:
            logger.warning("processes %s do not die of SIGKILL; they hang in the kernel", below)
            return below
        await asyncio.sleep(0.005)
