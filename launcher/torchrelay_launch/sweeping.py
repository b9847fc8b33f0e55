"""Starting the runs of a sweep: all at once on a cluster, one after another on this machine."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torchrelay.contract import layout
from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import AttemptRecord
from torchrelay.contract.storage import Storage
from torchrelay.contract.storage_options import to_environment
from torchrelay_launch.backends.base import Backend, RunRef, Submission, Together, load_backend
from torchrelay_launch.runs import create_run, open_for
from torchrelay_launch.runs.sweeps import Sweep, create_sweep
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.point_names import label
from torchrelay_launch.spec.reader import load_resolved
from torchrelay_launch.spec.sweep import Point, fields_of
from torchrelay_launch.starting import Plan, Started, claimed, note_failure, start_attempt

SWEEP_ID = "SWEEP_ID"  # stands in `render` for what is only known when the sweep is made
BEGIN_S = 3.0  # how long the process in the background is watched
LOOK_S = 0.2


@dataclass(frozen=True)
class SweepPlan:
    """What is to be started: a plan for each point."""

    plans: tuple[Plan, ...]
    points: tuple[Point, ...]
    at_once: int | None = None

    @property
    def backend(self) -> Backend:
        return self.plans[0].backend

    @property
    def fields(self) -> list[str]:
        """The dotted fields that any point sets."""
        return fields_of(self.points)

    def label(self, point: Point) -> str:
        return label(point.values, self.fields)

    def rehearse(self) -> list[Submission]:
        """What starting each point would do. Raises: ConfigError, naming the point that cannot run there."""
        found = []
        for plan, point in zip(self.plans, self.points, strict=True):
            with naming(self, point):
                found.append(plan.rehearse(layout.point_run_id(SWEEP_ID, point.number)))
        return found

    def rehearse_together(self, submissions: list[Submission]) -> Together | None:
        """The one command that starts all of them, where the backend has one."""
        url = f"{self.plans[0].storage_url.rstrip('/')}/{SWEEP_ID}"
        return together(self, submissions, RunRef(SWEEP_ID, url, 1, str(self.plans[0].workdir)))

    def warnings(self) -> list[str]:
        """What the user should know before it starts, each once. Raises: ConfigError for what cannot work."""
        found: dict[str, None] = {}
        for plan, point in zip(self.plans, self.points, strict=True):
            with naming(self, point):
                found |= dict.fromkeys(plan.warnings())
        if self.at_once and self.rehearse_together(self.rehearse()) is None:
            found[self._at_once_unheard()] = None
        return list(found)

    def check(self) -> None:
        """Ask the backend about every point before anything is written. Raises: TorchrelayError."""
        check = getattr(self.backend, "check", None)
        asked = set()
        for plan, point in zip(self.plans, self.points, strict=True):
            wishes = repr((plan.job.resources, plan.job.slurm, plan.job.secrets))
            if check is not None and wishes not in asked:
                asked.add(wishes)
                with naming(self, point):
                    check(plan.job)

    def _at_once_unheard(self) -> str:
        if self.backend.name == "slurm":
            return "sweep.at_once: has no effect, since these points are no array: each is a job of its own"
        if self.backend.name == "local":
            return "sweep.at_once: has no effect on this machine, which takes the points one after another"
        return f"sweep.at_once: has no effect on {self.backend.name}, which gets all jobs at once"


@contextmanager
def naming(what: SweepPlan, point: Point) -> Iterator[None]:
    """Name the point in a mistake that comes out of the block."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"point {point.number} ({what.label(point)}): {error}") from error


def together(what: SweepPlan, submissions: list[Submission], sweep: RunRef) -> Together | None:
    """How the backend starts all of these by one command; None if it cannot."""
    ask = getattr(what.backend, "together", None)
    return ask(submissions, sweep, what.at_once) if ask else None


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
        said |= dict.fromkeys(getattr(handle, "notes", ()))
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
