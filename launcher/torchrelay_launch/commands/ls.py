"""torchrelay ls."""

import argparse
import json
import time

from torchrelay.contract.settings import Json
from torchrelay.contract.storage import open_storage
from torchrelay_launch.arguments import add_json, explain
from torchrelay_launch.display.lines import run_table
from torchrelay_launch.display.style import note
from torchrelay_launch.display.sweep_table import results_json, results_text
from torchrelay_launch.results import results_of
from torchrelay_launch.runs.locate import storage_url
from torchrelay_launch.runs.status import RunStatus, at_once, list_runs
from torchrelay_launch.runs.sweeps import find_sweep
from torchrelay_launch.tailing import last_metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "List the runs in a storage, newest first: how far they are, their last metric, and how old they are. With "
        "--sweep the runs of one sweep, the best first: what it sets for each, and the validation metrics.",
        "torchrelay ls",
        "torchrelay ls /shared/runs --json",
        "torchrelay ls --sweep digits-sweep-20261121-101500-a1b2",
    )
    parser.add_argument(
        "storage", metavar="STORAGE", nargs="?", help="folder or URL (default: $TORCHRELAY_STORAGE, else ./runs)"
    )
    parser.add_argument("--storage", metavar="URL", dest="storage_option", help="the same, as an option")
    parser.add_argument("--sweep", metavar="SWEEP", help="a sweep's URL or path, or its id or the start of it")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.sweep is not None:
        return _show_sweep(args)
    url = storage_url(args.storage or args.storage_option)
    runs = list_runs(url)
    metrics = at_once(open_storage(url), lambda one: last_metrics(open_storage(one.url), one.attempts), runs)
    if args.json:
        about = ({"name": one.name, "created_at": one.created_at, **_of_sweep(one)} for one in runs)
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


def _of_sweep(run: RunStatus) -> dict[str, Json]:
    """What the JSON says of a run of a sweep beside what it says of any run."""
    return {"sweep": run.sweep, "point": run.point, "values": run.values} if run.sweep else {}


def _show_sweep(args: argparse.Namespace) -> int:
    results = results_of(find_sweep(args.sweep, args.storage or args.storage_option))
    print(json.dumps(results_json(results), indent=1) if args.json else results_text(results, time.time()))
    return 0
