"""Saving and restoring on local disk, against torch.save and torch.distributed.checkpoint; two ranks.

400 MB and 2 GB; TORCHRELAY_BENCH_MB names other sizes, as `400,2000`.
"""

import os
import secrets
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from timing import ratio, spread
from tools import PROGRAMS, PYTHON, TORCHRUN, Row, output, printed

SIZES = [int(size) for size in os.environ.get("TORCHRELAY_BENCH_MB", "400,2000").split(",")]
SIDES = {
    "torchrelay": "torchrelay",
    "torch_save": "torch.save with fsync",
    "dcp": "DCP `save`",
    "dcp_async": "DCP `async_save`",
}
ROWS = (
    ("stall_s", "training stands still", "torch_save", "at most 0.1"),
    ("stall_s", "training stands still", "dcp", ""),
    ("stall_s", "training stands still", "dcp_async", "below 1"),
    ("durable_s", "until durable", "torch_save", ""),
    ("durable_s", "until durable", "dcp", "at most 1"),
    ("durable_s", "until durable", "dcp_async", ""),
    ("restore_s", "restore", "torch_save", "below 1"),
    ("restore_s", "restore", "dcp", "below 1"),
)
MEMORY = {"save_memory": "saving", "restore_memory": "restoring"}
SAVING, RESTORING = ("stall_s", "durable_s", "save_memory"), ("restore_s", "restore_memory")
LARGE_MB, LARGE_TRIALS, BESIDE_TRIALS = 1000, 3, 5
Figures = dict[str, dict[str, list[float]]]


@dataclass(frozen=True)
class Place:
    """Where and how much is saved, and what the environment of the ranks says of it."""

    name: str
    megabytes: int
    trials: int
    sides: tuple[str, ...]
    saves: int
    url: str = ""
    environment: Mapping[str, str] | None = None
    restores: int = 3
    restored: int | None = None  # in how many of the trials; None for all
    clear: Callable[[], object] = lambda: None  # removes what is left at the URL

    def measure(self) -> Figures:
        """Times per save and restore, and memory, of rank 0."""
        found: Figures = {side: {name: [] for name in (*SAVING, *RESTORING)} for side in self.sides}
        for trial in range(self.trials):
            restores = self.restores if self.restored is None or trial < self.restored else 0
            first = trial % len(self.sides)  # a side finds the memory and the disk as the one before has left them
            for side in self.sides[first:] + self.sides[:first]:
                text = self._run(side, restores)
                for name in (*SAVING, *RESTORING) if restores else SAVING:
                    found[side][name].append(printed(text, name))
        return found

    def _run(self, side: str, restores: int) -> str:
        with tempfile.TemporaryDirectory() as folder:
            url = f"{self.url}/{secrets.token_hex(4)}" if self.url else str(Path(folder) / "saved")
            times = [str(self.saves), str(restores)]
            command = [*TORCHRUN, str(PROGRAMS / "saving.py"), side, str(self.megabytes), url, *times]
            text = output(command, environment=self.environment)
        self.clear()
        return text

    def rows(self) -> Iterator[Row]:
        found = self.measure()
        what = f"{self.megabytes} MB, {self.name}"
        for figure, name, side, aim in ROWS:
            if side in found:
                ours, theirs = found["torchrelay"][figure], found[side][figure]
                against = f"{SIDES[side]}: {spread(theirs)}"
                yield Row(f"{what}: {name}", spread(ours), against, f"{ratio(ours, theirs):.2f}", aim)
        for figure, name in MEMORY.items():
            peak = {side: spread(found[side][figure], "of the state") for side in found}
            others = "; ".join(f"{SIDES[side]}: {peak[side]}" for side in peak if side != "torchrelay")
            aim = "one share (0.5) and buffers" if figure == "save_memory" else ""
            yield Row(
                f"{what}: peak memory of a rank for {name}, beside the state", peak["torchrelay"], others, "", aim
            )


def rows(trials: int) -> list[Row]:
    """All sizes on disk, and the steps beside a save."""
    made: list[Row] = []
    for megabytes in SIZES:
        times, saves, restores = (LARGE_TRIALS, 6, 1) if megabytes > LARGE_MB else (trials, 8, 3)
        made += Place("disk", megabytes, times, tuple(SIDES), saves, restores=restores).rows()
        sys.stderr.write(f"{megabytes} MB done\n")
    return [*made, *steps_beside()]


def steps_beside() -> Iterator[Row]:
    """How much slower steps are while a save is under way on disk."""
    for megabytes in SIZES:
        for ranks in (1, 2):
            texts = []
            trials, cycles = (LARGE_TRIALS, 5) if megabytes > LARGE_MB else (BESIDE_TRIALS, 15)
            for _ in range(trials):
                with tempfile.TemporaryDirectory() as folder:
                    texts.append(beside(megabytes, ranks, folder, cycles))
            yield row_of_beside(f"{megabytes} MB, disk", ranks, spare_cores(ranks), texts)


def beside(megabytes: int, ranks: int, url: str, cycles: int, environment: Mapping[str, str] | None = None) -> str:
    """What beside.py prints."""
    launch = [PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    words = [str(PROGRAMS / "beside.py"), str(megabytes), url, str(cycles)]
    return output([*launch, *words], environment=environment)


def spare_cores(ranks: int) -> int:
    """Cores beyond one for each rank."""
    return max(0, (os.cpu_count() or 1) - ranks)


def row_of_beside(place: str, ranks: int, spare: int, texts: list[str]) -> Row:
    """What beside.py printed, against somebody else who only writes or sends as much."""
    slowing, writing = ([printed(text, side) for text in texts] for side in ("slowing", "writing"))
    cores = f"{spare} core{'s' if spare != 1 else ''} to spare" if spare else "no core to spare"
    return Row(
        f"{place}: steps while a save is under way, {ranks} rank{'s' if ranks > 1 else ''}, {cores}",
        spread(slowing, "times as long as without"),
        f"a process that only writes or sends as much: {spread(writing, 'times')}",
        f"{ratio(slowing, writing):.2f}",
        "at most 1.05" if spare else "",
    )
