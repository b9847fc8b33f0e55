"""torchrelay scale."""

import argparse

from torchrelay.contract import layout, records, settings
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.records import SpecRecord
from torchrelay_launch.arguments import add_run, at_least, explain
from torchrelay_launch.backends.base import load_backend
from torchrelay_launch.display.naming import name_for_user
from torchrelay_launch.display.style import note
from torchrelay_launch.runs.locate import find_run
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Change the number of nodes of an elastic run while it runs (Kubernetes). It saves a checkpoint and goes on "
        "from there with as many nodes; the global batch stays the same.",
        "torchrelay scale digits-20261121-101500-a1b2 4",
    )
    add_run(parser)
    parser.add_argument("nodes", metavar="N", type=at_least(1), help="number of nodes, within `resources.nodes`")


def run(args: argparse.Namespace) -> int:
    storage = find_run(args.run_name, args.storage)
    status = run_status(storage)
    if not status.live:
        raise ConfigError(
            f"the run {status.run_id} is not running: it is {status.state}; resume it with --set resources"
        )
    spec = records.read(storage, SpecRecord, layout.attempt_file(status.attempts, "spec"))
    allowed = settings.from_json(JobSpec, spec.spec).resources.nodes if spec else None
    if allowed is None or not allowed.elastic:
        raise ConfigError(f"resources.nodes: {allowed} is fixed; an elastic run has a range, such as 1..4")
    if not allowed.minimum <= args.nodes <= allowed.maximum:
        raise ConfigError(f"resources.nodes: {args.nodes} is not within {allowed}")
    scale = getattr(load_backend(status.backend), "scale", None)
    if scale is None:
        raise ConfigError(f"a run on {status.backend} cannot be scaled while it runs; Kubernetes can")
    scale(storage, args.nodes)
    nodes = f"{args.nodes} node{'s' * (args.nodes > 1)}"
    note(f"{name_for_user(storage.url)} goes on with {nodes} as soon as they are there", quiet=args.quiet)
    return 0
