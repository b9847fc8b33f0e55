"""torchrelay validate."""

import argparse
import sys

from torchrelay.contract.exit_codes import ExitCode
from torchrelay_launch.arguments import add_json, add_set, explain
from torchrelay_launch.spec.models import Resources
from torchrelay_launch.spec.places import Problem, SpecErrors
from torchrelay_launch.spec.point_names import short_names
from torchrelay_launch.spec.reader import LoadedSpec, read_spec
from torchrelay_launch.spec.sweep import fields_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Check job specs and show every mistake of every file, each with its line and what to write instead. Needs "
        "neither torch nor the data. Exits with 0 if all specs are good, else with 78.",
        "torchrelay validate jobs/*.yaml",
        "torchrelay validate jobs/digits.yaml --set train.epochs=2",
    )
    parser.add_argument("jobs", metavar="JOB", nargs="+", help="job specs, YAML files")
    add_set(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    checked = {job: _read(job, args.overrides) for job in args.jobs}
    if args.json:
        _print_json(checked)
    else:
        for job, found in checked.items():
            _show(job, found)
    failed = any(isinstance(found, SpecErrors) for found in checked.values())
    return int(ExitCode.CONFIG if failed else ExitCode.COMPLETED)


def _read(job: str, overrides: list[str]) -> LoadedSpec | SpecErrors:
    try:
        return read_spec(job, overrides)
    except SpecErrors as errors:
        return errors


def _show(job: str, found: LoadedSpec | SpecErrors) -> None:
    if isinstance(found, SpecErrors):
        print(found.report(colour=_colour()), file=sys.stderr, end="\n\n")
        return
    jobs = [point.job for point in found.points] or [found.job]
    sizes = " or ".join(dict.fromkeys(_size(one.resources) for one in jobs))
    print(f"{job}: good ({found.job.name}, {sizes}{_runs(found)})")


def _size(resources: Resources) -> str:
    nodes, ranks = resources.nodes, resources.world_procs_per_node
    return f"{nodes} node{'s' if str(nodes) != '1' else ''} x {ranks} process{'es' if ranks > 1 else ''}"


def _runs(found: LoadedSpec) -> str:
    """How many runs a sweep gives, and over what."""
    if not found.points:
        return ""
    names = short_names(fields_of(found.points))
    return f"; a sweep of {len(found.points)} run{'s' * (len(found.points) > 1)} over {', '.join(names.values())}"


def _print_json(checked: dict[str, LoadedSpec | SpecErrors]) -> None:
    import json

    results = []
    for job, found in checked.items():
        problems = found.covered_problems() if isinstance(found, SpecErrors) else []
        runs = 0 if isinstance(found, SpecErrors) else len(found.points) or 1
        errors = [_as_json(problem) for problem in problems]
        results.append({"job": job, "valid": not problems, "runs": runs, "errors": errors})
    print(json.dumps(results, indent=1))


def _as_json(problem: Problem) -> dict[str, object]:
    place = problem.place
    where: dict[str, object] = {"file": place, "line": None, "column": None}
    if not isinstance(place, str):
        where = {"file": place.source.name, "line": place.line + 1, "column": place.column + 1}
    return {**where, "error": problem.text, "hint": problem.hint}


def _colour() -> bool:
    import os

    return sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
