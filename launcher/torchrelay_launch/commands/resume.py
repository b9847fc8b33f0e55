"""torchrelay resume."""

import argparse
import dataclasses
import json
from pathlib import Path

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.records import SpecRecord
from torchrelay.contract.settings import to_json
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch.arguments import add_on, add_run_or_sweep, add_set, at_least, explain
from torchrelay_launch.conducting import Start, one_after_another, show_results
from torchrelay_launch.display import quantities
from torchrelay_launch.display.naming import name_for_user
from torchrelay_launch.display.style import note
from torchrelay_launch.interrupts import Interrupts
from torchrelay_launch.planning import Plan, plan
from torchrelay_launch.runs.locate import find_run, open_for
from torchrelay_launch.runs.status import RunStatus, run_status
from torchrelay_launch.runs.sweeps import Sweep, look_for_sweep, sweep_status
from torchrelay_launch.sessions import follow_to_end, let_go
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.reader import LoadedSpec, load_resolved
from torchrelay_launch.spec.resolved import change_recorded, differences
from torchrelay_launch.starting import Started, start_attempt
from torchrelay_launch.sweeping import plan_of_point, start_in_background, start_point


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Start the next attempt of a run that has ended: it goes on from the newest good checkpoint, with the spec of "
        "its last attempt, and is followed as by `run`. With --from it goes back to an earlier checkpoint; later ones "
        "stay in storage but are no longer the run's. A completed run starts nothing, unless --set makes it longer. Of "
        "a sweep all runs go on that have not completed, and those begin that were never started.",
        "torchrelay resume digits-20261121-101500-a1b2",
        "torchrelay resume digits-20261121-101500-a1b2 --set train.epochs=20",
        "torchrelay resume digits-20261121-101500-a1b2 --from 400 --detach",
    )
    add_run_or_sweep(parser)
    add_on(parser)
    add_set(parser)
    parser.add_argument(
        "--from", metavar="STEP", type=at_least(0), dest="from_step", help="start from the checkpoint of this step"
    )
    parser.add_argument("--workdir", metavar="DIR", help="folder that the job's relative paths start from, if it moved")
    parser.add_argument("-d", "--detach", action="store_true", help="start it and return, as `submit` does")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what torchrun prints too")


def run(args: argparse.Namespace) -> int:
    sweep = look_for_sweep(args.run_name, args.storage)
    if sweep is not None:
        return resume_sweep(args, sweep)
    storage = find_run(args.run_name, args.storage)
    status = run_status(storage)
    _refuse_running(status)
    record = _recorded_spec(storage, status)
    loaded, old = change_recorded(record, args.overrides), load_resolved(record.spec)
    if status.state is RunState.COMPLETED and args.from_step is None and not _goes_further(old, loaded.job):
        note(_completed(status), quiet=args.quiet)
        return 0
    _check_step(status, args.from_step)
    what = _plan(args, status, loaded)
    _show_changes(old, loaded.job, quiet=args.quiet)
    for warning in what.warnings():
        note(f"warning: {warning}", quiet=args.quiet)
    return _start(args, what, open_for(loaded.job, storage.url), status)


def _start(args: argparse.Namespace, what: Plan, storage: Storage, status: RunStatus) -> int:
    if args.detach:
        started = start_attempt(what, storage, status.attempts, tethered=False, resume_from=args.from_step)
        let_go(started, quiet=args.quiet)
        return 0
    with Interrupts() as interrupts:
        started = start_attempt(what, storage, status.attempts, tethered=True, resume_from=args.from_step)
        return follow_to_end(started, what.job, interrupts, quiet=args.quiet, verbose=args.verbose)


def _refuse_running(status: RunStatus) -> None:
    if not status.live:
        return
    attempt, name = status.history[-1], name_for_user(status.url)
    process = f", process {attempt.heartbeat.pid}" if attempt.heartbeat else ""
    raise ConfigError(
        f"the run {status.run_id} is {status.state}: attempt {attempt.record.number} since "
        f"{quantities.moment(attempt.record.created_at)} on {attempt.record.host}{process}; "
        f"`torchrelay logs {name} -f` follows it, `torchrelay stop {name}` stops it"
    )


def resume_sweep(args: argparse.Namespace, sweep: Sweep) -> int:
    """Go on with all runs of a sweep that are neither complete nor running. Raises: TorchrelayError."""
    if args.overrides or args.from_step is not None:
        raise ConfigError(f"--set and --from are about one run: name one of the sweep {sweep.sweep_id}'s")
    points = sweep_status(sweep)
    due = [one for one in points if not (one.run and (one.run.live or one.run.state is RunState.COMPLETED))]
    if not due:
        note(f"all runs of the sweep {sweep.sweep_id} have completed or are running", quiet=args.quiet)
        return 0
    on = args.on or sweep.record.backend
    if on == "local" and args.detach:
        start_in_background(sweep, load_resolved(sweep.spec(1).spec))
    elif on == "local":
        starts = [(one.number, _going_on(args, sweep, one.number)) for one in due]
        code = one_after_another(sweep, starts, quiet=args.quiet, verbose=args.verbose)
        show_results(sweep, quiet=args.quiet)
        return code
    else:
        for one in due:
            started, _ = _started(args, sweep, one.number, tethered=False)
            started.handle.detach()
            note(f"started {one.run_id}", quiet=args.quiet)
    print(sweep.storage.url, flush=True)
    return 0


def _going_on(args: argparse.Namespace, sweep: Sweep, number: int) -> Start:
    """What goes on with a point of a sweep, or begins it."""

    def start() -> tuple[Started, JobSpec] | None:
        storage = open_storage(sweep.run_url(number))
        status = run_status(storage) if storage.size(layout.RUN_RECORD) is not None else None
        if status is not None and (status.live or status.state is RunState.COMPLETED):
            return None  # since we looked
        return _started(args, sweep, number, tethered=True)

    return start


def _started(args: argparse.Namespace, sweep: Sweep, number: int, *, tethered: bool) -> tuple[Started, JobSpec]:
    storage = open_storage(sweep.run_url(number))
    status = run_status(storage) if storage.size(layout.RUN_RECORD) is not None else None
    if status is None or not status.attempts:
        what = plan_of_point(sweep, number, args.on, args.workdir)
        return start_point(sweep, number, what, tethered=tethered), what.job
    what = _plan(args, status, change_recorded(_recorded_spec(storage, status), []))
    return start_attempt(what, open_for(what.job, storage.url), status.attempts, tethered=tethered), what.job


def _recorded_spec(storage: Storage, status: RunStatus) -> SpecRecord:
    """The spec of the newest attempt that has one: an attempt can die between its claim and its spec."""
    for number in range(status.attempts, 0, -1):
        record = records.read(storage, SpecRecord, layout.attempt_file(number, "spec"))
        if record is not None:
            return record
    raise ConfigError(
        f"the run {status.run_id} was never started, so there is no spec to go on with; use `torchrelay run`"
    )


def _goes_further(old: JobSpec, new: JobSpec) -> bool:
    """Whether a completed run has more to do with its new spec."""
    if old.train is None or new.train is None:
        return old != new
    if (old.train.steps is None) != (new.train.steps is None):
        return True
    return (new.train.steps or 0, new.train.epochs or 0) > (old.train.steps or 0, old.train.epochs or 0)


def _completed(status: RunStatus) -> str:
    at = "" if status.step is None else f" at step {status.step}"
    return (
        f"the run {status.run_id} completed{at}: there is nothing to resume; make it longer with "
        "--set train.epochs=N or --set train.steps=N, or go back with --from STEP"
    )


def _check_step(status: RunStatus, step: int | None) -> None:
    if step is None or step in status.checkpoint_steps:
        return
    there = ", ".join(str(one) for one in status.checkpoint_steps) or "none"
    raise ConfigError(f"the run {status.run_id} has no checkpoint of step {step}; there are: {there}")


def _plan(args: argparse.Namespace, status: RunStatus, loaded: LoadedSpec) -> Plan:
    last = status.history[-1].record
    workdir = Path(args.workdir or last.submitted_from or last.workdir or ".").absolute()
    on = args.on or (last.backend if last.backend != "unknown" else None)
    if not workdir.is_dir() and (args.workdir or on != "kubernetes"):  # pods have the image, or the code as submitted
        raise ConfigError(
            f"the run was started in {workdir}, which is not on this machine; name the folder that its relative paths "
            "start from with --workdir DIR"
        )
    made = plan(loaded.job, on, status.url.rpartition("/")[0])
    return dataclasses.replace(made, workdir=workdir, sources=loaded.sources)


def _show_changes(old: JobSpec, new: JobSpec, *, quiet: bool) -> None:
    for path, before, after in differences(to_json(old), to_json(new)):
        note(f"changed: {path}: {json.dumps(before)} -> {json.dumps(after)}", quiet=quiet)
