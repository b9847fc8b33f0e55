"""torchrelay run."""

import argparse

from torchrelay_launch.arguments import add_dry_run, add_job, explain
from torchrelay_launch.commands.render import plan_of, rehearse
from torchrelay_launch.display.style import note
from torchrelay_launch.interrupts import Interrupts
from torchrelay_launch.sessions import follow_to_end
from torchrelay_launch.starting import start_new


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Start a job and follow it until it ends. Ctrl-C saves a checkpoint and stops, a second Ctrl-C kills; closing "
        "the terminal or killing this command stops it cleanly too. The exit code is the job's: 0 completed, 75 "
        "stopped with a checkpoint, 70 failed, 78 a mistake in the spec; 130 killed by a second Ctrl-C.",
        "torchrelay run jobs/digits.yaml",
        "torchrelay run jobs/mnist.yaml --set train.epochs=2 --set resources.procs_per_node=4",
    )
    add_job(parser)
    add_dry_run(parser)
    parser.add_argument("-v", "--verbose", action="store_true", help="show what torchrun prints too")


def run(args: argparse.Namespace) -> int:
    plan = plan_of(args)
    if args.dry_run:
        return rehearse(plan, args.dry_run)
    for warning in plan.warnings():
        note(f"warning: {warning}", quiet=args.quiet)
    with Interrupts() as interrupts:
        started = start_new(plan, tethered=True)
        return follow_to_end(started, plan.job, interrupts, quiet=args.quiet, verbose=args.verbose)
