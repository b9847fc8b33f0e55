"""Starting torchrun with its guard: through the fork server, which has imported torch already, or without it."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torchrelay_launch import processes
from torchrelay_launch.supervisor import forkserver, guard
from torchrelay_launch.supervisor.linux import Children

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Command:
    """What to start: `PYTHON -m torch.distributed.run ...`, its whole environment and folder; a stop's patience."""

    argv: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    grace_s: float


class Starter:
    """Starts guards, one after the other. One for all starts of a supervisor."""

    def __init__(self, children: Children) -> None:
        self._children = children
        self._server = 0  # pid of the fork server, once there is one
        self._channel: socket.socket | None = None
        self._asking = False

    @property
    def idle(self) -> set[int]:
        """The fork server, if no start is under way: what may live on between the starts."""
        return {self._server} if self._server and not self._asking else set()

    async def start(self, command: Command, output: int) -> int:
        """Start torchrun. Returns the guard's pid, whose exit code `children` keeps.

        output: a descriptor for all that it prints, closed here. Raises: OSError if it cannot be started.
        """
        try:
            return await self._fork(command, output)
        except (OSError, ValueError) as error:
            logger.warning("torchrun is started without the fork server, which failed: %s", error)
            return self._execute(command, output)
        finally:
            os.close(output)

    def close(self) -> None:
        """End the fork server; the next start makes another."""
        if self._channel is not None:
            self._channel.close()
            processes.send(self._server, signal.SIGKILL)
        self._channel, self._server, self._asking = None, 0, False

    async def _fork(self, command: Command, output: int) -> int:
        channel = self._channel or self._start_server(command, output)
        request = {"argv": list(command.argv), "env": dict(command.env), "grace": command.grace_s}
        waiting, go = os.pipe()
        self._asking = True
        try:
            guarding = await asyncio.to_thread(_ask, channel, json.dumps(request).encode(), os.dup(output), waiting)
            self._children.expect(guarding)
            os.write(go, b"\n")
        except BaseException:  # a gang that is not wanted any more cancels this
            self.close()
            raise
        finally:
            os.close(go)
        self._asking = False
        return guarding

    def _start_server(self, command: Command, output: int) -> socket.socket:
        self._channel, theirs = socket.socketpair()
        with theirs:
            argv = [sys.executable, forkserver.__file__, str(os.getpid()), str(theirs.fileno()), *command.argv]
            self._server = _detached(argv, command, output, [theirs.fileno()])
        return self._channel

    def _execute(self, command: Command, output: int) -> int:
        argv = [sys.executable, "-I", "-S", guard.__file__, str(os.getpid()), str(command.grace_s), *command.argv]
        pid = _detached(argv, command, output)
        self._children.expect(pid)
        return pid


def _detached(argv: Sequence[str], command: Command, output: int, passed: Sequence[int] = ()) -> int:
    """Start a process in a session of its own. Its end is collected by `Children`, not by Popen."""
    process = subprocess.Popen(
        argv,
        cwd=command.workdir,
        env=dict(command.env),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        start_new_session=True,
        pass_fds=passed,
    )
    process.returncode = 0
    return process.pid


def _ask(channel: socket.socket, request: bytes, output: int, waiting: int) -> int:
    """One start by the fork server; the descriptors are closed. Runs in a thread. Raises: OSError, ValueError."""
    try:
        socket.send_fds(channel, [len(request).to_bytes(forkserver.HEADER_BYTES, "big")], [output, waiting])
    finally:
        os.close(output)
        os.close(waiting)
    channel.sendall(request)
    answer = b""
    while not answer.endswith(b"\n"):
        data = channel.recv(64)
        if not data:
            raise ConnectionError("it has ended")
        answer += data
    return int(answer)
