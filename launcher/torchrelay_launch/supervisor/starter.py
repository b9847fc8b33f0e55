"""Starting torchrun with its guard: through the fork server, which has imported torch already, or without it."""

import asyncio
import logging
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable

from torchrelay_launch.supervisor import guard
from torchrelay_launch.supervisor.fork_client import Command, ForkServer
from torchrelay_launch.supervisor.linux import Children

logger = logging.getLogger(__name__)


class Starter:
    """Starts guards, one after the other. One for all starts of a supervisor. `server`: one that is there already."""

    def __init__(self, children: Children, server: ForkServer | None = None) -> None:
        self._children, self._server = children, server
        self._asking = False

    @property
    def idle(self) -> set[int]:
        """The fork server, if no start is under way: what may live on between the starts."""
        return {self._server.pid} if self._server is not None and not self._asking else set()

    async def start(self, command: Command, output: int, ready: Callable[[], Awaitable[None]]) -> int:
        """Start torchrun. Returns the guard's pid, whose exit code `children` keeps.

        output: a descriptor for all that it prints, closed here. ready: waited for once torch is imported, so not
        without the fork server, when torchrun has yet to import it. Raises: OSError if it cannot be started.
        """
        try:
            return await self._fork(command, output, ready)
        except (OSError, ValueError) as error:
            logger.warning("torchrun is started without the fork server, which failed: %s", error)
            return self._execute(command, output)
        finally:
            os.close(output)

    def close(self) -> None:
        """End the fork server; the next start makes another."""
        if self._server is not None:
            self._server.close()
        self._server, self._asking = None, False

    async def _fork(self, command: Command, output: int, ready: Callable[[], Awaitable[None]]) -> int:
        self._server = self._server or ForkServer()
        waiting, go = os.pipe()
        try:
            guarding = await self._ask(self._server, command, output, waiting)
            await ready()
            os.write(go, b"\n")
        finally:
            os.close(go)  # without a byte from it the guard ends
        return guarding

    async def _ask(self, server: ForkServer, command: Command, output: int, waiting: int) -> int:
        self._asking = True
        try:
            guarding = await asyncio.to_thread(server.fork, command, os.dup(output), waiting)
            self._children.expect(guarding)
        except BaseException:  # a gang that is not wanted any more cancels this
            self.close()
            raise
        self._asking = False
        return guarding

    def _execute(self, command: Command, output: int) -> int:
        """As it was done before there was a fork server: in a process and a session of its own."""
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(command.grace_s), *command.argv],
            cwd=command.workdir,
            env=dict(command.env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        process.returncode = 0  # its end is collected by `Children`, not by Popen
        self._children.expect(process.pid)
        return process.pid
