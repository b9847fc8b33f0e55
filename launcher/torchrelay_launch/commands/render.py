"""torchrelay render."""

import argparse
import json
from dataclasses import replace

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.settings import Json, to_json
from torchrelay_launch.arguments import add_job, add_json, at_least, explain
from torchrelay_launch.backends.base import Command, Submission
from torchrelay_launch.planning import Plan, SweepPlan, plan
from torchrelay_launch.runs.locate import storage_url
from torchrelay_launch.spec.reader import read_spec


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Print exactly what `run` or `submit` would do with a job spec: for each node the supervisor's command, and "
        "the torchrun command and variables that it starts. Nothing is started or written, values of secrets are shown "
        "as ***, and the same spec gives the same text every time. RUN_ID stands for the id that a run gets when it "
        "starts.",
        "torchrelay render jobs/digits.yaml --set resources.nodes=2",
        "torchrelay render jobs/digits.yaml --json",
        "torchrelay render jobs/digits-sweep.yaml --point 2",
    )
    add_job(parser)
    parser.add_argument("--point", metavar="N", type=at_least(1), help="of a sweep only this point, from 1")
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    made = plan_of(args)
    if isinstance(made, SweepPlan):
        show_sweep(made, only=args.point, as_json=args.json)
    elif args.point is not None:
        raise ConfigError(f"--point: {args.job} has no `sweep:`, so it is one run")
    else:
        show(made.rehearse(), as_json=args.json)
    return 0


def plan_of(args: argparse.Namespace) -> Plan | SweepPlan:
    """The plan that the command line and its spec describe. Raises: ConfigError with all mistakes of the spec."""
    loaded = read_spec(args.job, args.overrides)
    made = plan(loaded.job, args.on, storage_url(args.storage, loaded.job.storage))
    made = replace(made, sources=loaded.sources, source_text=loaded.source_text)
    if not loaded.points:
        return made
    plans = (replace(made, job=point.job, sources=point.sources) for point in loaded.points)
    return SweepPlan(tuple(plans), loaded.points, loaded.at_once)


def rehearse(plan: Plan | SweepPlan, how: str) -> int:
    """What `--dry-run` does: print it, or have the cluster say whether it would take it. Raises: ConfigError."""
    ask = getattr(plan.backend, "rehearse", None)
    if how == "server" and ask is None:
        raise ConfigError(
            f"--dry-run=server asks Slurm or Kubernetes; on the backend {plan.backend.name!r} there is nobody to ask"
        )
    if how == "server" and ask is not None:
        for one in plan.rehearse() if isinstance(plan, SweepPlan) else [plan.rehearse()]:
            for line in ask(one):
                print(line)
    elif isinstance(plan, SweepPlan):
        show_sweep(plan)
    else:
        show(plan.rehearse())
    return 0


def show_sweep(what: SweepPlan, *, only: int | None = None, as_json: bool = False) -> None:
    """Print what starts each point, or one of them. Raises: ConfigError if there is no such point."""
    count = len(what.points)
    if only is not None and only > count:
        raise ConfigError(f"--point: there is no point {only}; the sweep has {count}, from 1")
    submissions = what.rehearse()
    together = what.rehearse_together(submissions)
    if together is not None:  # what each run has for itself is not submitted by itself
        submissions = [replace(one, submits=()) for one in submissions]
    shown = [pair for pair in zip(what.points, submissions, strict=True) if only in (None, pair[0].number)]
    if as_json:
        points = [{"point": point.number, "values": point.values, **_json(one)} for point, one in shown]
        joint = together and {"submit": _command(together.command), "files": dict(together.files)}
        print(json.dumps({"backend": what.backend.name, "together": joint, "points": points}, indent=1))
        return
    parts = [f"# a sweep of {count} runs over {', '.join(what.fields)}\n"]
    parts += [str(together)] if together is not None and only is None else []
    parts += [f"# point {point.number} of {count}: {what.label(point)}\n{one}" for point, one in shown]
    print("\n".join(parts), end="")


def show(submission: Submission, *, as_json: bool = False) -> None:
    """Print a submission on stdout."""
    if as_json:
        print(json.dumps(_json(submission), indent=1))
        return
    print(submission, end="")


def _json(submission: Submission) -> dict[str, Json]:
    return {
        "backend": submission.backend,
        "run": {"run_id": submission.run.run_id, "url": submission.run.url, "attempt": submission.run.attempt},
        "workdir": submission.run.workdir,
        "submits": [_command(command) for command in submission.submits],
        "starts": [_command(command) for command in submission.starts],
        "files": dict(submission.files),
        "warnings": list(submission.warnings),
        "spec": to_json(submission.job),
    }


def _command(command: Command) -> Json:
    return {"title": command.title, "argv": list(command.argv), "env": dict(command.env)}
