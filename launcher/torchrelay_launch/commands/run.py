"""torchrelay run."""

import argparse

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.arguments import add_dry_run, add_job, explain
from torchrelay_launch.commands.render import plan_of, rehearse
from torchrelay_launch.conducting import one_after_another, show_results, starting
from torchrelay_launch.display.style import note
from torchrelay_launch.interrupts import Interrupts
from torchrelay_launch.planning import SweepPlan
from torchrelay_launch.sessions import follow_to_end
from torchrelay_launch.starting import start_new
from torchrelay_launch.sweeping import make


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Start a job and follow it until it ends. Ctrl-C saves a checkpoint and stops, a second Ctrl-C kills; closing "
        "the terminal or killing this command stops it cleanly too. The exit code is the job's: 0 completed, 75 "
        "stopped with a checkpoint, 70 failed, 78 a mistake in the spec; 130 killed by a second Ctrl-C. The runs of a "
        "spec with `sweep:` are run one after another, and a table of their results ends it.",
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
    if isinstance(plan, SweepPlan):
        return _run_sweep(args, plan)
    for warning in plan.warnings():
        note(f"warning: {warning}", quiet=args.quiet)
    with Interrupts() as interrupts:
        started = start_new(plan, tethered=True)
        return follow_to_end(started, plan.job, interrupts, quiet=args.quiet, verbose=args.verbose)


def _run_sweep(args: argparse.Namespace, what: SweepPlan) -> int:
    """All points one after another, on this machine. Raises: ConfigError on a cluster, which takes them all at once."""
    if what.backend.name != "local":
        raise ConfigError(
            f"`run` follows one run at a time, and {what.backend.name} takes a sweep's {len(what.points)} runs all at "
            "once: start them with `torchrelay submit`, and look at them with `torchrelay ls --sweep`"
        )
    for warning in what.warnings():
        note(f"warning: {warning}", quiet=args.quiet)
    sweep = make(what)
    note(f"sweep {sweep.storage.url}", quiet=args.quiet)
    starts = [(number, starting(sweep, number)) for number in sweep.numbers]
    code = one_after_another(sweep, starts, quiet=args.quiet, verbose=args.verbose)
    show_results(sweep, quiet=args.quiet)
    return code
