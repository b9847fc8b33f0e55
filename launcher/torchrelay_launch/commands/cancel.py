"""torchrelay cancel."""

import argparse

from torchrelay_launch.arguments import add_run_or_sweep, explain
from torchrelay_launch.commands.stop import ask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Kill a run now, without a last checkpoint, and wait until it has ended. What was saved before stays, and "
        "`torchrelay resume` goes on from the newest checkpoint. Of a sweep all runs are killed.",
        "torchrelay cancel digits-20261121-101500-a1b2",
    )
    add_run_or_sweep(parser)
    parser.add_argument("--no-wait", action="store_true", help="return when it has been asked")


def run(args: argparse.Namespace) -> int:
    return ask(args, "cancel")
