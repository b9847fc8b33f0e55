"""The supervisor's side of the fork server. Imports little, since the server is the first thing that is started."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torchrelay_launch.supervisor.options import TOKEN_VARIABLE

HEADER_BYTES = 8
_COMPUTES_NOTHING = {"OMP_NUM_THREADS": "1", "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}  # and so loads no plug-ins of torch
ROOM = " " * 2000  # for what `ps` is to show of torchrun: the kernel keeps as much as a process started with


@dataclass(frozen=True)
class Command:
    """What to start: `PYTHON -m torch.distributed.run ...`, its whole environment and folder; a stop's patience."""

    argv: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    grace_s: float


class ForkServer:
    """A fork server that this process has started. Raises: OSError if that cannot be."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        script = Path(__file__).with_name("forkserver.py")
        environment = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
        with theirs:
            process = subprocess.Popen(
                [sys.executable, str(script), str(os.getpid()), str(theirs.fileno()), ROOM],
                env=environment | _COMPUTES_NOTHING,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=[theirs.fileno()],
            )
        process.returncode = 0  # its end is collected by `Children`, not by Popen
        self.pid = process.pid

    def fork(self, command: Command, output: int, go: int) -> int:
        """Start torchrun with its guard, which waits for a byte from `go`. Returns the guard's pid.

        The descriptors, `output` for all that is printed, are closed here. Raises: OSError, ValueError.
        """
        request = {
            "argv": list(command.argv),
            "env": dict(command.env),
            "workdir": command.workdir,
            "grace": command.grace_s,
        }
        data = json.dumps(request).encode()
        try:
            socket.send_fds(self._channel, [len(data).to_bytes(HEADER_BYTES, "big")], [output, go])
        finally:
            os.close(output)
            os.close(go)
        self._channel.sendall(data)
        answer = b""
        while not answer.endswith(b"\n"):
            read = self._channel.recv(64)
            if not read:
                raise ConnectionError("it has ended")
            answer += read
        return int(answer)

    def close(self) -> None:
        """End it."""
        self._channel.close()
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def started_early() -> ForkServer | None:
    """A fork server, or None where there is no room for one now: the first start tries again, and can do without."""
    try:
        return ForkServer()
    except OSError:
        return None
