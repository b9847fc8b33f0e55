"""torchrelay describe."""

import argparse
import json
import time

from torchrelay.contract import events
from torchrelay.contract.storage import Storage
from torchrelay_launch.arguments import add_json, add_run, explain
from torchrelay_launch.display.description import as_json, as_text
from torchrelay_launch.progress import Progress
from torchrelay_launch.runs.locate import find_run
from torchrelay_launch.runs.status import run_status


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Show everything about a run: metrics, checkpoints, every attempt with its outcome and restarts, the first "
        "failure with its traceback, and where the files are.",
        "torchrelay describe digits-20261121-101500-a1b2",
    )
    add_run(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    storage = find_run(args.run_name, args.storage)
    status, progress = run_status(storage), progress_of(storage)
    if args.json:
        print(json.dumps(as_json(status, progress), indent=1))
    else:
        print(as_text(status, progress, time.time()))
    return 0


def progress_of(storage: Storage) -> Progress:
    """What all events of a run add up to."""
    return Progress().take_all(events.read_all(storage))
