"""Processes as Linux shows them under /proc: who lives, who descends from whom, and ending them."""

import functools
import os
import signal
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")


@dataclass(frozen=True)
class Process:
    """One process, as /proc/PID/stat shows it."""

    pid: int
    parent: int
    state: str  # one letter; Z is a process that has ended and was not waited for
    started: int  # clock ticks since boot: tells a reused pid apart
    status: int | None  # its wait status once it has ended, where the kernel lets us see it

    @property
    def running(self) -> bool:
        return self.state not in "ZX"


def look_at(pid: int) -> Process | None:
    """The process with this pid, ended or not, or None if there is none."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return parse_stat(text)


def parse_stat(text: str) -> Process:
    """The fields of a /proc/PID/stat line that matter here; the command's name may hold blanks and brackets."""
    head, _, tail = text.rpartition(")")
    fields = tail.split()
    status = int(fields[49]) if fields[0] in "ZX" and len(fields) > 49 else None
    return Process(int(head.split(" ", 1)[0]), int(fields[1]), fields[0], int(fields[19]), status)


@functools.cache
def boot_id() -> str:
    """What tells one boot of this machine from another."""
    try:
        return (PROC / "sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def alive(pid: int, started: float) -> bool:
    """Whether the process that had this pid and start time still runs."""
    process = look_at(pid)
    return process is not None and process.running and process.started == started


def running(pid: int) -> bool:
    """Whether there is a process with this pid that has not ended."""
    process = look_at(pid)
    return process is not None and process.running


def descendants(root: int) -> list[Process]:
    """All processes below `root`, ended ones too, parents before children."""
    children: dict[int, list[Process]] = {}
    for name in os.listdir(PROC):
        if name.isdigit() and (process := look_at(int(name))):
            children.setdefault(process.parent, []).append(process)
    found: list[Process] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(0), [])
        found += below
        waiting += [process.pid for process in below]
    return found


def send(pid: int, number: signal.Signals) -> bool:
    """Send a signal. Returns whether there was a process to take it."""
    try:
        os.kill(pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def environment_of(pid: int) -> dict[str, str]:
    """The environment that a process started with; empty if it may not be read."""
    try:
        data = (PROC / str(pid) / "environ").read_bytes()
    except OSError:
        return {}
    pairs = (entry.partition(b"=") for entry in data.split(b"\0") if b"=" in entry)
    return {os.fsdecode(name): os.fsdecode(value) for name, _, value in pairs}


def children(parent: int) -> list[int]:
    """Pids of the direct children of a process, of whichever of its threads."""
    found: list[int] = []
    try:
        for thread in os.listdir(PROC / str(parent) / "task"):
            found += map(int, (PROC / str(parent) / "task" / thread / "children").read_text().split())
    except OSError:  # it has ended, or a kernel without this file
        pass
    return found
