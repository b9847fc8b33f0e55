"""torchrelay ls."""

import argparse
import json
import time

from torchrelay.contract.storage import open_storage
from torchrelay_launch.arguments import add_json, explain
from torchrelay_launch.display.lines import run_table
from torchrelay_launch.display.style import note
from torchrelay_launch.runs import list_runs, storage_url
from torchrelay_launch.runs.status import at_once
from torchrelay_launch.tailing import last_metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "List the runs in a storage, newest first: how far they are, their last metric, and how old they are.",
        "torchrelay ls",
        "torchrelay ls /shared/runs --json",
    )
    parser.add_argument(
        "storage", metavar="STORAGE", nargs="?", help="folder or URL (default: $TORCHRELAY_STORAGE, else ./runs)"
    )
    parser.add_argument("--storage", metavar="URL", dest="storage_option", help="the same, as an option")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    url = storage_url(args.storage or args.storage_option)
    runs = list_runs(url)
    metrics = at_once(open_storage(url), lambda one: last_metrics(open_storage(one.url), one.attempts), runs)
    if args.json:
        about = ({"name": one.name, "created_at": one.created_at} for one in runs)
        print(
            json.dumps(
                [one.json() | more | {"metrics": m} for one, more, m in zip(runs, about, metrics, strict=True)],
                indent=1,
            )
        )
    elif runs:
        print(run_table(runs, metrics, time.time()))
    else:
        note(f"no runs in {url}", quiet=args.quiet)
    return 0
