"""Saving and restoring a state on local disk, two ranks: against torch.save, and torch.distributed.checkpoint.

400 MB; TORCHRELAY_BENCH_MB names another size.
"""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from timing import ratio, spread
from tools import PROGRAMS, TORCHRUN, Row, output, printed

MEGABYTES = int(os.environ.get("TORCHRELAY_BENCH_MB", "400"))
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
FIGURES = ("stall_s", "durable_s", "restore_s", "more_memory_mb")
Figures = dict[str, dict[str, list[float]]]


def rows(trials: int) -> list[Row]:
    """Times per save and restore, and memory, of one rank."""
    found: Figures = {side: {name: [] for name in FIGURES} for side in SIDES}
    for _ in range(trials):
        for side in SIDES:
            text = _run(side)
            for name in FIGURES:
                found[side][name].append(printed(text, name))
    made = [_row(found, *row) for row in ROWS]
    memory = {side: spread(found[side]["more_memory_mb"], "MB") for side in SIDES}
    others = "; ".join(f"{SIDES[side]}: {memory[side]}" for side in SIDES if side != "torchrelay")
    return [*made, Row(f"{_what()}: peak memory of rank 0 beside the state", memory["torchrelay"], others, "", "")]


def _run(side: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        command = [*TORCHRUN, str(PROGRAMS / "saving.py"), side, str(MEGABYTES), str(Path(folder) / "saved")]
        return output(command)


def _row(found: Figures, figure: str, what: str, side: str, aim: str) -> Row:
    ours, theirs = found["torchrelay"][figure], found[side][figure]
    show: Callable[[list[float]], str] = spread
    return Row(f"{_what()}: {what}", show(ours), f"{SIDES[side]}: {show(theirs)}", f"{ratio(ours, theirs):.2f}", aim)


def _what() -> str:
    return f"Checkpoint of {MEGABYTES} MB"
