"""torchrelay submit."""

import argparse

from torchrelay.contract.errors import TorchrelayError
from torchrelay_launch.arguments import add_dry_run, add_job, explain
from torchrelay_launch.commands.render import plan_of, rehearse
from torchrelay_launch.display.naming import name_for_user
from torchrelay_launch.display.style import note
from torchrelay_launch.planning import SweepPlan
from torchrelay_launch.sessions import let_go
from torchrelay_launch.starting import start_new


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Start a job and return. It goes on when this terminal is closed. Prints the run's URL, alone, on stdout. "
        "Of a spec with `sweep:` every point is started as a run of its own, on this machine one after another, and "
        "the sweep's URL is printed.",
        "RUN=$(torchrelay submit jobs/digits.yaml) && torchrelay logs $RUN -f",
        "SWEEP=$(torchrelay submit jobs/digits-sweep.yaml) && torchrelay ls --sweep $SWEEP",
    )
    add_job(parser)
    add_dry_run(parser)


def run(args: argparse.Namespace) -> int:
    plan = plan_of(args)
    if args.dry_run:
        return rehearse(plan, args.dry_run)
    if isinstance(plan, SweepPlan):
        return _submit_sweep(args, plan)
    for warning in plan.warnings():
        note(f"warning: {warning}", quiet=args.quiet)
    let_go(start_new(plan, tethered=False), quiet=args.quiet)
    return 0


def _submit_sweep(args: argparse.Namespace, what: SweepPlan) -> int:
    from torchrelay_launch.sweeping import make, start_all, start_in_background

    for warning in what.warnings():
        note(f"warning: {warning}", quiet=args.quiet)
    what.check()
    sweep = make(what)
    notes: tuple[str, ...] = ()
    try:
        if what.backend.name == "local":
            start_in_background(sweep, what.plans[0].job)
        else:
            notes = start_all(what, sweep)
    except TorchrelayError:
        note(f"of the sweep {sweep.storage.url} not everything was started; `torchrelay resume` of it tries again")
        raise
    print(sweep.storage.url, flush=True)
    name = name_for_user(sweep.storage.url)
    for text in (
        *notes,
        f"started; `torchrelay ls --sweep {name}` shows its {len(what.points)} runs, "
        f"`torchrelay stop {name}` stops all of them",
    ):
        note(text, quiet=args.quiet)
    return 0
