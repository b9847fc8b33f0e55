"""torchrelay status."""

import argparse
import json

from torchrelay_launch.arguments import add_json, add_run, explain
from torchrelay_launch.display.lines import status_line
from torchrelay_launch.runs.locate import find_run
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.tailing import last_metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Show in one line how a run is doing. A second line names what went wrong, if something did.",
        "torchrelay status digits-20261121-101500-a1b2",
        "torchrelay status runs/digits-20261121-101500-a1b2 --json",
    )
    add_run(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    storage = find_run(args.run_name, args.storage)
    status = run_status(storage)
    if args.json:
        print(json.dumps(status.json(), indent=1))
    else:
        print(status_line(status, last_metrics(storage, status.attempts)))
    return 0
