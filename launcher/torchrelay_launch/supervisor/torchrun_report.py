"""Reading torchrun's own words: its report of failed ranks, and why it failed itself."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_EXIT = re.compile(r"\s*exitcode\s*: (-?\d+) \(pid: (\d+)\)")
_RANK = re.compile(r"\s*rank\s*: (\d+) \(local_rank: (\d+)\)")
_TRACEBACK = re.compile(r"\s*traceback : ?(.*)")
_ROOT = re.compile(r"Root Cause \(first observed failure\):")
_NO_TRACEBACK = ("To enable traceback see", "Signal ")
_EXCEPTION = re.compile(r"(?:[A-Za-z_][\w.]*\.)?[A-Z]\w*(?:Error|Exception|Timeout)\b.*")
_USAGE = re.compile(r"\S+: error: (.*)")
_PORT_TAKEN = re.compile(r"EADDRINUSE|address already in use", re.IGNORECASE)


@dataclass(frozen=True)
class RootCause:
    """The rank that torchrun saw failing first. `exit_code`: -n if signal n ended it."""

    rank: int
    exit_code: int
    traceback: str  # of a script that uses torch's `@record`; empty otherwise


def root_cause(lines: Sequence[str]) -> RootCause | None:
    """The root cause in the last report among torchrun's lines, or None if there is none."""
    start = next((i for i in range(len(lines) - 1, -1, -1) if _ROOT.search(lines[i])), None)
    if start is None:
        return None
    rank = exit_code = None
    traceback: list[str] = []
    for line in lines[start + 1 :]:
        if line.startswith("====="):
            break
        if traceback:
            traceback.append(line)
        elif match := _RANK.match(line):
            rank = int(match[1])
        elif match := _EXIT.match(line):
            exit_code = int(match[1])
        elif match := _TRACEBACK.match(line):
            traceback.append(match[1])
    if rank is None or exit_code is None:
        return None
    return RootCause(rank, exit_code, _cleaned(traceback))


def own_error(lines: Sequence[str]) -> str | None:
    """The line by which torchrun says why it failed itself: a wrong option, a port in use, no rendezvous."""
    for line in reversed(lines):
        match = _USAGE.match(line) or _EXCEPTION.match(line)
        if match:
            return match[0].strip()
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


def wrong_usage(lines: Sequence[str]) -> bool:
    """Whether torchrun did not understand its options."""
    return any(_USAGE.match(line) for line in lines[-3:])


def port_taken(lines: Sequence[str]) -> bool:
    """Whether torchrun could not have its port."""
    return any(_PORT_TAKEN.search(line) for line in lines)


def _cleaned(traceback: list[str]) -> str:
    text = "\n".join(line.removeprefix("  ") for line in traceback).strip()
    return "" if text.startswith(_NO_TRACEBACK) else text
