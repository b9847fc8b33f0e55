"""Starting the runs of a sweep: all at once on a cluster, one after another on this machine."""

import os
import subprocess
import sys
import time
from pathlib import Path

from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import AttemptRecord
from torchrelay.contract.storage import Storage
from torchrelay.contract.storage_options import to_environment
from torchrelay_launch.backends.base import RunRef, Submission, load_backend
from torchrelay_launch.planning import Plan, SweepPlan, together
from torchrelay_launch.runs.claims import create_run
from torchrelay_launch.runs.locate import open_for
from torchrelay_launch.runs.sweeps import Sweep, create_sweep
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.reader import load_resolved
from torchrelay_launch.starting import Started, claimed, note_failure, start_attempt

BEGIN_S = 3.0  # how long the process in the background is watched
LOOK_S = 0.2


def make(what: SweepPlan) -> Sweep:
    """Write down what the sweep is; nothing is started. Raises: TorchrelayError."""
    first = what.plans[0]
    return create_sweep(first.storage_url, what.points, what.backend.name, str(first.workdir), first.source_text)


def start_all(what: SweepPlan, sweep: Sweep) -> tuple[str, ...]:
    """Start every point on a cluster. Returns notes for the user. Raises: TorchrelayError.

    What was claimed and could not be started is noted as failed, so that `resume` finds it.
    """
    open_attempts: list[tuple[Storage, AttemptRecord]] = []
    try:
        submissions = []
        for plan, point in zip(what.plans, what.points, strict=True):
            storage = create_run(plan.storage_url, plan.job, plan.source_text, sweep.point(point.number))
            attempt, submission = claimed(plan, storage, 0)
            open_attempts.append((storage, attempt))
            submissions.append(submission)
        return _submit(what, sweep, submissions, open_attempts)
    except TorchrelayError as error:
        for storage, attempt in open_attempts:
            note_failure(storage, attempt.number, error)
        raise


def _submit(
    what: SweepPlan,
    sweep: Sweep,
    submissions: list[Submission],
    waiting: list[tuple[Storage, AttemptRecord]],
) -> tuple[str, ...]:
    """Submit what was claimed; what is submitted is taken off `waiting`."""
    ref = RunRef(sweep.sweep_id, sweep.storage.url, 1, sweep.record.workdir)
    joint = together(what, submissions, ref)
    if joint is not None:
        notes: tuple[str, ...] = what.backend.submit_together(submissions, joint)  # type: ignore[attr-defined]
        waiting.clear()
        return notes
    said: dict[str, None] = {}
    for submission in submissions:
        handle = what.backend.submit(submission, tethered=False)
        handle.detach()
        waiting.pop(0)
        said |= dict.fromkeys(handle.notes)
    return (*filter(None, said), f"{len(submissions)} jobs, one for each run")


def plan_of_point(sweep: Sweep, number: int, on: str | None = None, workdir: str | None = None) -> Plan:
    """The plan of a point, from what the sweep's folder says. Raises: ConfigError, StorageError."""
    spec = sweep.spec(number)
    folder = Path(workdir or sweep.record.workdir).absolute()
    if not folder.is_dir():
        raise ConfigError(
            f"the sweep was started in {folder}, which is not on this machine; name the folder that its relative paths "
            "start from with --workdir DIR"
        )
    backend = load_backend(on or sweep.record.backend)
    return Plan(load_resolved(spec.spec), backend, sweep.root_url, folder, spec.sources, sweep.source_text())


def start_point(sweep: Sweep, number: int, what: Plan, *, tethered: bool) -> Started:
    """Make the run of a point and start it. Raises: ConfigError if somebody else has started it; StorageError."""
    try:
        storage = create_run(what.storage_url, what.job, what.source_text, sweep.point(number))
    except FileExistsError:  # its first attempt decides whose it is
        storage = open_for(what.job, sweep.run_url(number))
    return start_attempt(what, storage, 0, tethered=tethered)


def start_in_background(sweep: Sweep, job: JobSpec) -> None:
    """Leave a process behind that runs the points one after another. Raises: ConfigError, with why it ends at once."""
    log = _log_of(sweep)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "torchrelay_launch", "resume", sweep.storage.url, "--quiet"],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=sweep.record.workdir,
            env={**os.environ, **to_environment(job.storage_options)},
            start_new_session=True,
        )
    until = time.monotonic() + BEGIN_S
    while time.monotonic() < until:
        if process.poll() in (ExitCode.CONFIG, ExitCode.STORAGE):  # it says so of itself, never of a run
            raise ConfigError(log.read_text(errors="replace").strip().removeprefix("error: ") or "it did not start")
        time.sleep(LOOK_S)
    process.returncode = 0  # nobody's to wait for any more; Popen would warn of it otherwise


def _log_of(sweep: Sweep) -> Path:
    """What the process in the background says; nowhere, where the sweep lies on object storage."""
    return Path(os.devnull) if "://" in sweep.storage.url else Path(sweep.storage.url) / "conductor.log"
