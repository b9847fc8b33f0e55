"""torchrelay doctor."""

import argparse
import importlib
from functools import partial

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay_launch.arguments import BACKENDS, add_json, add_set, add_storage, explain
from torchrelay_launch.display.style import note
from torchrelay_launch.runs.locate import storage_url

_MARKS = {True: "ok", False: "WRONG", None: "note"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Check what a backend needs: the way to it, rights, versions, storage, and what a job asks for. Nothing is "
        "changed, but for what --probe starts for a moment. Ends with 78 if something is wrong.",
        "torchrelay doctor --on kubernetes jobs/kubernetes.yaml --probe",
        "torchrelay doctor --on slurm jobs/digits.yaml --probe",
    )
    parser.add_argument("job", metavar="JOB", nargs="?", help="a job spec whose wishes are checked too")
    parser.add_argument(
        "--on", metavar="BACKEND", choices=BACKENDS, help="the backend (default: the spec's `backend:`)"
    )
    parser.add_argument(
        "--probe",
        action="store_true",
        help="look from where the job would run too: from a pod, or the nodes of an allocation of two minutes",
    )
    add_set(parser)
    add_storage(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    job = None
    if args.job is not None:
        from torchrelay_launch.spec.reader import read_spec

        job = read_spec(args.job, args.overrides).job
    backend = args.on or (job.backend if job else "local")
    try:
        module = importlib.import_module(f"torchrelay_launch.backends.{backend}.doctor")
    except ModuleNotFoundError as error:
        raise ConfigError(f"there is nothing to check on the backend {backend!r}: name another with --on") from error
    url = storage_url(args.storage, job.storage if job else None)
    findings = list(module.examine(job, url))
    if args.probe:
        findings += module.probe(job, url, partial(note, quiet=args.quiet))
    if args.json:
        import json

        print(json.dumps([{"what": one.what, "says": one.says, "ok": one.ok} for one in findings], indent=1))
    else:
        width = max(len(one.what) for one in findings) + 2
        for one in findings:
            print(f"{_MARKS[one.ok]:<6}{one.what:<{width}}{one.says}")
    return int(ExitCode.CONFIG) if any(one.ok is False for one in findings) else 0
