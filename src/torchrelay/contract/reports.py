"""Node-local files through which ranks tell their supervisor who they are and why they fail.

The supervisor makes a fresh folder for every start of the gang and names it in TORCHRELAY_REPORTS. A rank registers
when its signal handlers are in place, touches its registration as it makes progress, and leaves a failure report
before it ends with an error. torchrun itself reports only 1 for whatever its workers returned.
"""

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path

from torchrelay.contract.records import Failure


@dataclass(frozen=True)
class Registration:
    """One rank's process. The file's modification time is when it last made progress."""

    rank: int
    pid: int


@dataclass(frozen=True)
class RankReport:
    """How a rank ended: with 0, with 75, or with an error's exit code and a failure."""

    rank: int
    exit_code: int
    at: float  # seconds since the epoch
    failure: Failure | None = None


def register(folder: Path, rank: int) -> Path:
    """Say that this process is `rank` and takes signals from now on. Returns the file to touch on progress."""
    path = folder / f"rank-{rank:05d}.json"
    _write(path, dataclasses.asdict(Registration(rank, os.getpid())))
    return path


def registrations(folder: Path) -> dict[Registration, float]:
    """All registered ranks of this node, each with the time of its last progress."""
    found = {}
    for path in sorted(folder.glob("rank-*.json")):
        found[Registration(**json.loads(path.read_text()))] = path.stat().st_mtime
    return found


def report(folder: Path, rank_report: RankReport) -> None:
    """Leave word of how this rank ends."""
    _write(folder / f"end-{rank_report.rank:05d}.json", dataclasses.asdict(rank_report))


def reports(folder: Path) -> list[RankReport]:
    """What the ranks of this node left, the earliest first."""
    found = []
    for path in folder.glob("end-*.json"):
        values = json.loads(path.read_text())
        failure = Failure(**values.pop("failure")) if values.get("failure") else None
        found.append(RankReport(**{**values, "failure": failure}))
    return sorted(found, key=lambda one: one.at)


def _write(path: Path, values: object) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(values))
    temporary.replace(path)
