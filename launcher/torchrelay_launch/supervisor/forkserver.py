"""Starts torchrun again and again, but imports torch for it only once. Run as a script by the supervisor.

    python forkserver.py SUPERVISOR_PID CHANNEL_FD ROOM

Most of a start of torchrun is the import of torch, which a restart would have to wait for again. Here it is imported
once, while the supervisor gets ready, and every start is a fork: this process, the guard (see guard.py), torchrun. The
guard becomes the supervisor's own child, as if that had started it. torchrun runs as `python -m` would run it.

The channel is a stream socket. A request is the length of a JSON object in 8 bytes, with two descriptors beside it: the
pipe for all output, and one that the guard reads a byte from before it begins, so that the supervisor knows of it
first. Then the object: `argv`, `env`, `workdir`, `grace`. The answer is the guard's pid in decimal and a line end.
"""

import ctypes
import gc
import importlib
import json
import os
import runpy
import signal
import socket
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from torchrelay_launch.supervisor import guard
from torchrelay_launch.supervisor.fork_client import HEADER_BYTES

IGNORED = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)  # sent to whole job steps
MODULE = "torch.distributed.run"
_ARG_START, _ARG_END = 45, 46  # in /proc/PID/stat after the command's name: see proc_pid_stat(5)


def main() -> list[str]:
    """Serve until the channel ends. Returns only in a process that is to become torchrun: its command."""
    supervisor, channel = int(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    channel.set_inheritable(False)
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    if not guard.end_with(supervisor, signal.SIGKILL):
        os._exit(1)
    show_as(["torchrelay", "fork server of", str(supervisor)])
    if not sys.flags.safe_path:
        del sys.path[0]  # this script's folder
    preload()
    while request := receive(channel):
        middle = fork()
        if not middle:
            return start(channel, request, supervisor)
        for descriptor in (request["output"], request["go"]):
            os.close(descriptor)
        os.waitpid(middle, 0)
    os._exit(0)


def preload() -> None:
    """Import what torchrun imports. If that fails, this process ends, and torchrun, started without it, says why."""
    gc.disable()  # what an import makes stays, and looking for garbage in it takes a quarter of the time
    importlib.import_module(MODULE)
    del sys.modules[MODULE]  # it is to run as __main__
    gc.freeze()  # or the collector would copy the shared pages by writing to them
    gc.enable()


def receive(channel: socket.socket) -> dict[str, Any]:
    """The next request with its descriptors; empty when the supervisor has closed the channel."""
    header, descriptors, _, _ = socket.recv_fds(channel, HEADER_BYTES, 2)
    if not header:
        return {}
    with channel.makefile("rb", buffering=0) as stream:
        rest = int.from_bytes(header, "big")
        data = b""
        while len(data) < rest:
            data += stream.read(rest - len(data)) or sys.exit("the supervisor is gone")
    output, go = descriptors
    return {**json.loads(data), "output": output, "go": go}


def fork() -> int:
    """As os.fork. Python warns of other threads; those of the libraries that torch loads are prepared for it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def start(channel: socket.socket, request: dict[str, Any], supervisor: int) -> list[str]:
    """In between: fork the guard and end, so that the supervisor adopts it. Returns in torchrun only: its command."""
    middle = os.getpid()
    guarding = fork()
    if guarding:
        channel.sendall(f"{guarding}\n".encode())
        os._exit(0)
    channel.close()
    if not os.read(request["go"], 1):
        os._exit(1)
    while os.getppid() == middle:
        time.sleep(0.001)
    os.setsid()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    for descriptor in (1, 2):
        os.dup2(request["output"], descriptor)
    for descriptor in (request["output"], request["go"]):
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["workdir"])
    show_as(["torchrelay", "guard of", str(supervisor)])
    if not guard.take_post(supervisor):
        os._exit(1)
    torchrun = guard.fork()
    if torchrun:
        os._exit(guard.keep(torchrun, supervisor, request["grace"]))
    if "PYTHONSAFEPATH" not in request["env"]:
        sys.path.insert(0, request["workdir"])  # as for `python -m`
    command: list[str] = request["argv"]
    show_as(command)
    return command


def show_as(command: list[str]) -> None:
    """Have `ps` show this command line, cut to the room there is: the way of setproctitle(3)."""
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    begin, end = int(fields[_ARG_START]), int(fields[_ARG_END])
    if not begin < end:
        return  # a kernel that does not tell
    text = b"\0".join(os.fsencode(word) for word in command)[: end - begin - 1]
    ctypes.memset(begin, 0, end - begin)
    ctypes.memmove(begin, text, len(text))


if __name__ == "__main__":
    sys.argv = main()[2:]
    runpy.run_module(MODULE, run_name="__main__", alter_sys=True)
