"""`torchrelay node`: the supervisor of one node, as every backend starts it.

A stop can come at any moment, so the signals are noted before anything else is imported.
"""

import os
import signal
import sys
from types import FrameType

_early: list[int] = []


def _note(number: int, _frame: FrameType | None) -> None:
    _early.append(number)


def main(argv: list[str]) -> int:
    """Supervise this node's part of an attempt. Returns the exit code, or ends the process with it."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _note)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    from torchrelay.contract.errors import TorchrelayError

    try:
        code = _supervise(argv)
    except TorchrelayError as error:
        print(f"torchrelay node: {error}", file=sys.stderr)  # noqa: T201 - an entry point
        code = error.exit_code
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # a thread that hangs in a storage call must not hold up the end


def _supervise(argv: list[str]) -> int:
    from torchrelay_launch.supervisor.fork_client import started_early

    server = started_early()  # imports torch while this process imports the rest
    import asyncio

    from torchrelay.contract.storage import open_storage
    from torchrelay_launch.supervisor import options
    from torchrelay_launch.supervisor.attempt import NodeSupervisor
    from torchrelay_launch.supervisor.work import load_work

    chosen = options.parse(argv)
    work = load_work(open_storage(chosen.run), chosen.attempt)
    loop = asyncio.new_event_loop()
    return loop.run_until_complete(NodeSupervisor(chosen, work, server, _early).run())
