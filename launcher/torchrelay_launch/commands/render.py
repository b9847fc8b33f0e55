"""torchrelay render."""

import argparse
import json

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.settings import Json, to_json
from torchrelay_launch.arguments import add_job, add_json, explain
from torchrelay_launch.backends.base import Command, Submission
from torchrelay_launch.runs import storage_url
from torchrelay_launch.spec.reader import read_spec
from torchrelay_launch.starting import Plan, plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Print exactly what `run` or `submit` would do with a job spec: for each node the supervisor's command, and "
        "the torchrun command and variables that it starts. Nothing is started or written, values of secrets are shown "
        "as ***, and the same spec gives the same text every time. RUN_ID stands for the id that a run gets when it "
        "starts.",
        "torchrelay render jobs/digits.yaml --set resources.nodes=2",
        "torchrelay render jobs/digits.yaml --json",
    )
    add_job(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    show(plan_of(args).rehearse(), as_json=args.json)
    return 0


def plan_of(args: argparse.Namespace) -> Plan:
    """The plan that the command line and its spec describe. Raises: ConfigError with all mistakes of the spec."""
    import dataclasses

    loaded = read_spec(args.job, args.overrides)
    made = plan(loaded.job, args.on, storage_url(args.storage, loaded.job.storage))
    return dataclasses.replace(made, sources=loaded.sources, source_text=loaded.source_text)


def rehearse(plan: Plan, how: str) -> int:
    """What `--dry-run` does: print it, or have the cluster say whether it would take it. Raises: ConfigError."""
    submission = plan.rehearse()
    if how == "client":
        show(submission)
        return 0
    ask = getattr(plan.backend, "rehearse", None)
    if ask is None:
        raise ConfigError(
            f"--dry-run=server asks Slurm or Kubernetes; on the backend {plan.backend.name!r} there is nobody to ask"
        )
    for line in ask(submission):
        print(line)
    return 0


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
