"""torchrelay submit."""

import argparse

from torchrelay_launch.arguments import add_dry_run, add_job, explain
from torchrelay_launch.commands.render import plan_of, rehearse
from torchrelay_launch.display.naming import name_for_user
from torchrelay_launch.display.style import note
from torchrelay_launch.starting import start_new


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Start a job and return. It goes on when this terminal is closed. Prints the run's URL, alone, on stdout.",
        "RUN=$(torchrelay submit jobs/digits.yaml) && torchrelay logs $RUN -f",
    )
    add_job(parser)
    add_dry_run(parser)


def run(args: argparse.Namespace) -> int:
    plan = plan_of(args)
    if args.dry_run:
        return rehearse(plan, args.dry_run)
    for warning in plan.warnings():
        note(f"warning: {warning}", quiet=args.quiet)
    started = start_new(plan, tethered=False)
    started.handle.detach()
    print(started.storage.url, flush=True)
    for text in getattr(started.handle, "notes", ()):
        note(text, quiet=args.quiet)
    name = name_for_user(started.storage.url)
    note(f"started; `torchrelay logs {name} -f` follows it, `torchrelay stop {name}` stops it", quiet=args.quiet)
    return 0
