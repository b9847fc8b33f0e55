"""Run the benchmarks and write docs/benchmarks.md. `python benchmarks/run.py [NAME ...] [--trials N]`.

With names, only those are run, and only their tables are written anew.
"""

import argparse
import importlib
import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import version

from tools import ROOT, Row

# Name of the benchmark: its trials and its heading.
BENCHMARKS = {
    "launcher": (20, "The command line"),
    "startup": (15, "Starting"),
    "step_time": (5, "Steps"),
    "steps_overhead": (5, "The cost of `Run.steps`"),
    "restart": (20, "Coming back from a kill"),
    "checkpoints": (5, "Checkpoints on disk"),
    "checkpoints_s3": (3, "Checkpoints on S3"),
    "slurm": (5, "Slurm"),
}
PAGE = ROOT / "docs" / "benchmarks.md"
INTRODUCTION = """# Benchmarks

Written by `make bench`; every comparison is made in one run, the sides in turn. Figures are the median and, in
brackets, the range; a ratio is the median of the ratios pair by pair. Times depend on the machine, ratios much less.
"""


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHMARKS))
    parser.add_argument("--trials", type=int)
    options = parser.parse_args()
    sections = _read()
    for name in options.names or BENCHMARKS:
        trials, heading = BENCHMARKS[name]
        sys.stderr.write(f"{name} ...\n")
        rows = importlib.import_module(name).rows(options.trials or trials)
        sections[heading] = _table(rows)
        sys.stderr.write(sections[heading])
        _write(sections)


def _read() -> dict[str, str]:
    """What the page has now: heading -> text."""
    _, *parts = PAGE.read_text().split("\n## ") if PAGE.exists() else [""]
    return {heading: text.strip("\n") + "\n" for heading, _, text in (part.partition("\n") for part in parts)}


def _write(sections: dict[str, str]) -> None:
    headings = [heading for _, heading in BENCHMARKS.values() if heading in sections]
    parts = [f"\n## {heading}\n\n{sections[heading]}" for heading in headings]
    PAGE.write_text(INTRODUCTION + "".join(parts))


def _table(rows: list[Row]) -> str:
    machine = (
        f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}, no GPU, "
        f"Python {platform.python_version()}, torch {version('torch')}."
    )
    lines = [machine, "", "| what | torchrelay | against | ratio | aim |", "|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.ours} | {row.theirs} | {row.ratio} | {row.aim} |" for row in rows]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
