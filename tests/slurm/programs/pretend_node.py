"""Stands in for the supervisor of a node and all that it starts, so that a test of Slurm need not import torch.

Counts steps, ten a second, to PRETEND_STEPS. Commits a checkpoint when it is told to stop, and every PRETEND_EVERY
steps; goes on from the newest. The nodes are connected as the real ones are, and notice each other's end.
"""

import json
import os
import select
import signal
import socket
import sys
import time
from pathlib import Path

from torchrelay.contract import events, layout, records
from torchrelay.contract.exit_codes import ExitCode, Outcome
from torchrelay.contract.layout import Writer
from torchrelay.contract.log_lines import LogLine
from torchrelay.contract.manifest import newest_committed
from torchrelay.contract.records import Failure, Heartbeat, OutcomeRecord
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch import processes
from torchrelay_launch.supervisor.options import NodeOptions, parse

STEP_S = 0.1
stopping: list[int] = []


def main(options: NodeOptions) -> int:
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda heard, _frame: stopping.append(heard))
    storage = open_storage(options.run)
    note_environment(options)
    say(storage, options, "begins")
    if options.node > 0:
        code = follow(options)
        say(storage, options, f"ends with {code}")
        return code
    peers = meet(options)
    code, failure, step = count(storage, options, peers)
    outcome = {0: Outcome.COMPLETED, 75: Outcome.PREEMPTED}.get(code, Outcome.FAILED)
    record = OutcomeRecord(outcome, code, time.time(), step, failure)
    storage.create(layout.attempt_file(options.attempt, "outcome"), records.dump(record))
    say(storage, options, f"ends with {code}")
    for peer in peers:
        peer.sendall(bytes([code]))
    return code


def say(storage: Storage, options: NodeOptions, text: str) -> None:
    """A line in the node's log, as of its first rank."""
    line = LogLine(options.node, options.node, f"attempt {options.attempt} {text}")
    storage.append(layout.node_log(options.attempt, options.node), f"{line}\n".encode())


def note_environment(options: NodeOptions) -> None:
    """For tests that look at what arrives."""
    folder = os.environ.get("PRETEND_NOTES")
    if folder:
        noted = {"environment": dict(os.environ), "argv": sys.argv, "cwd": str(Path.cwd())}
        (Path(folder) / f"a{options.attempt}-n{options.node}.json").write_text(json.dumps(noted))


def count(storage: Storage, options: NodeOptions, peers: list[socket.socket]) -> tuple[int, Failure | None, int]:
    newest = newest_committed(storage)
    step = newest.step if newest else 0
    total, every = int(os.environ.get("PRETEND_STEPS", "100")), int(os.environ.get("PRETEND_EVERY", "1000000"))
    log = layout.events_file(Writer(options.attempt, 0))
    beat(storage, options)
    while step < total:
        time.sleep(STEP_S)
        step += 1
        event = {"event": "step", "t": time.time(), "step": step, "total_steps": total, "metrics": {"loss": 1.0}}
        storage.append(log, events.encode(event))
        if gone := [index for index, peer in enumerate(peers, 1) if select.select([peer], [], [], 0)[0]]:
            error = f"node {gone[0]} was lost: the connection to its supervisor ended"
            return int(ExitCode.FAILED), Failure(error, int(ExitCode.FAILED), node=gone[0], retryable=False), step
        if step % every == 0 and step < total:
            commit(storage, options, step)
        if stopping or storage.size(layout.attempt_file(options.attempt, "stop")) is not None:
            commit(storage, options, step)
            return int(ExitCode.PREEMPTED), None, step
    commit(storage, options, step)
    return 0, None, step


def commit(storage: Storage, options: NodeOptions, step: int) -> None:
    storage.create(f"{layout.checkpoint_folder(step, Writer(options.attempt, 0))}/{layout.MANIFEST}", b"{}")


def beat(storage: Storage, options: NodeOptions) -> None:
    me = processes.look_at(os.getpid())
    assert me is not None
    heartbeat = Heartbeat(time.time(), os.getpid(), socket.gethostname(), me.started, processes.boot_id())
    storage.replace(layout.attempt_file(options.attempt, "heartbeat"), records.dump(heartbeat))


def meet(options: NodeOptions) -> list[socket.socket]:
    """Wait for all other nodes."""
    if options.nodes == 1:
        return []
    server = socket.create_server(options.address)
    return [server.accept()[0] for _ in range(options.nodes - 1)]


def follow(options: NodeOptions) -> int:
    """Be there until node 0 says how it ended, or is gone."""
    while True:
        try:
            link = socket.create_connection(options.address, timeout=1)
            break
        except OSError:
            time.sleep(0.1)
    link.settimeout(None)
    while True:
        try:
            said = link.recv(1)
        except InterruptedError:
            continue
        return said[0] if said else int(ExitCode.FAILED)


if __name__ == "__main__":
    sys.exit(main(parse(sys.argv[4:])))
