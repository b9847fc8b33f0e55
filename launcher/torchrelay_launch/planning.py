"""What is to be started, and where: everything that `render` shows, before anything is started or written."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from torchrelay.contract import layout
from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.base import Backend, RunRef, Submission, Together, load_backend
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.point_names import label
from torchrelay_launch.spec.sweep import Point, fields_of

RUN_ID = "RUN_ID"  # stands in `render` for the id that a run gets when it is made
SWEEP_ID = "SWEEP_ID"  # stands in and for that of a sweep


@dataclass(frozen=True)
class Plan:
    """What is to be started, and where."""

    job: JobSpec
    backend: Backend
    storage_url: str  # where runs are kept
    workdir: Path = field(default_factory=Path.cwd)  # relative paths of the job start from here
    sources: dict[str, str] = field(default_factory=dict)
    source_text: str = ""

    def rehearse(self, run_id: str = RUN_ID) -> Submission:
        """What starting it as a new run would do. Raises: ConfigError if it cannot run there."""
        url = f"{self.storage_url.rstrip('/')}/{run_id}"
        return self.backend.render(self.job, RunRef(run_id, url, 1, str(self.workdir), self.sources))

    def warnings(self) -> list[str]:
        """What the user should know before it starts. Raises: ConfigError for what cannot work on this machine."""
        found = list(self.rehearse().warnings)
        if self.backend.name == "local":
            from torchrelay_launch.preflight import check_local

            found += check_local(self.job, self.storage_url)
        return found


def plan(job: JobSpec, on: str | None, storage_url: str) -> Plan:
    """A plan on the backend that `--on` names, else the spec's. Raises: ConfigError if there is none."""
    return Plan(job, load_backend(on or job.backend), storage_url)


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
