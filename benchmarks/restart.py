"""From `kill -9` of a rank to the first step after it: torchrelay's gang restart against torchrun's own.

A trial that has not come back within the limit counts as a hang.
"""

import contextlib
import os
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from timing import spread
from tools import ENVIRONMENT, JOBS, PROGRAMS, TORCHRELAY, TORCHRUN, Row

LIMIT_S = 30.0
STEPS_BEFORE_KILL = 10


def rows(trials: int) -> list[Row]:
    """One row."""
    ours: list[float | None] = []
    theirs: list[float | None] = []
    for _ in range(trials):
        ours.append(_trial(_relayed))
        theirs.append(_trial(_bare))
    return [
        Row(
            f"`kill -9` of a rank to the first step after it, {trials} trials",
            _summary(ours),
            f"torchrun's own restart {_summary(theirs)}",
            _ratio(ours, theirs),
            "every trial comes back, median below 6 s",
        )
    ]


def _relayed(counts: Path) -> Sequence[str]:
    storage = str(counts.parent / "runs")
    return [TORCHRELAY, "run", str(JOBS / "counting.yaml"), "--storage", storage, "--set", f"args=[{counts}]"]


def _bare(counts: Path) -> Sequence[str]:
    return [*TORCHRUN, "--max-restarts", "3", str(PROGRAMS / "counting.py"), str(counts)]


def _trial(argv: Callable[[Path], Sequence[str]]) -> float | None:
    """Seconds from the kill to the first step of another process, or None when none came."""
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        command = argv(counts)
        job = subprocess.Popen(
            command,
            cwd=PROGRAMS,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            process_group=0,
        )
        try:
            victim = _wait_for(counts, lambda lines: len(lines) >= STEPS_BEFORE_KILL)
            if victim is None:
                raise RuntimeError(f"{command} did not start")
            killed = time.time()
            os.kill(int(victim[0]), signal.SIGKILL)
            back = _wait_for(counts, lambda lines: lines[-1][0] != victim[0])
            return None if back is None else float(back[1]) - killed
        finally:
            _end(job, counts)


def _wait_for(counts: Path, ready: Callable[[list[list[str]]], bool]) -> list[str] | None:
    """The last complete line of the file once `ready` says so of all its lines; None after the limit."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            lines = [line.split() for line in counts.read_text().split("\n")[:-1]]
            if lines and ready(lines):
                return lines[-1]
        time.sleep(0.01)
    return None


def _end(job: "subprocess.Popen[bytes]", counts: Path) -> None:
    """Stop a job and, when it hangs, its ranks, which are those that wrote to the file."""
    job.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        job.wait(20)
    job.kill()
    job.wait()
    for line in counts.read_text().split("\n")[-2:]:
        with contextlib.suppress(ProcessLookupError, ValueError, IndexError):
            os.kill(int(line.split()[0]), signal.SIGKILL)


def _summary(trials: Sequence[float | None]) -> str:
    back = [trial for trial in trials if trial is not None]
    return f"{len(back)} of {len(trials)} came back, {spread(back) if back else 'none'}"


def _ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> str:
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    return f"{statistics.median(a / b for a, b in pairs):.2f} where both did" if pairs else "none"
