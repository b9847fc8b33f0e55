"""Run the benchmarks and write docs/benchmarks.md. `python benchmarks/run.py [NAME ...] [--trials N]`.

With names, only those are run and printed, and nothing is written.
"""

import argparse
import importlib
import os
import platform
import sys
from importlib.metadata import version

from tools import ROOT, Row

TRIALS = {"launcher": 20, "startup": 7, "step_time": 7, "restart": 20, "steps_overhead": 5, "checkpoints": 5}


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(TRIALS))
    parser.add_argument("--trials", type=int)
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.names or TRIALS:
        sys.stderr.write(f"{name} ...\n")
        found = importlib.import_module(name).rows(options.trials or TRIALS[name])
        sys.stderr.write("".join(f"{_line(row)}\n" for row in found))
        rows += found
    page = _page(rows)
    if options.names:
        sys.stdout.write(page)
    else:
        (ROOT / "docs" / "benchmarks.md").write_text(page)


def _page(rows: list[Row]) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Written by `make bench`; every comparison is made in one run, the sides in turn. Figures are the median and,",
        "in brackets, the range; a ratio is the median of the ratios pair by pair. Times depend on the machine, ratios",
        "much less.",
        "",
        f"Machine: {os.cpu_count()} cores, {platform.system()} {platform.machine()}, no GPU; "
        f"Python {platform.python_version()}, torch {version('torch')}.",
        "",
        "| what | torchrelay | against | ratio | aim |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(lines + [_line(row) for row in rows]) + "\n"


def _line(row: Row) -> str:
    return f"| {row.what} | {row.ours} | {row.theirs} | {row.ratio} | {row.aim} |"


if __name__ == "__main__":
    main()
