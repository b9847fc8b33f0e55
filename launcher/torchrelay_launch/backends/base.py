"""What every backend offers: a pure `render`, whose result can be printed, and `submit` and the rest upon it."""

import importlib
import shlex
from dataclasses import dataclass, field
from typing import Protocol, cast

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.storage import Storage
from torchrelay_launch.spec.models import JobSpec

HIDDEN = "***"  # stands for the value of a secret


@dataclass(frozen=True)
class RunRef:
    """The attempt of a run that a submission is for; for a dry run, one that does not exist yet."""

    run_id: str
    url: str
    attempt: int
    workdir: str  # folder that relative paths of the job start from
    sources: dict[str, str] = field(default_factory=dict)  # "train.model" -> "jobs/x.yaml:12:3", for errors in ranks
    sweep: str = ""  # URL of the sweep that the run is started with, whose runs share what does not differ


@dataclass(frozen=True)
class Command:
    """One command line, with the variables that it gets beyond those of the submitting shell."""

    title: str  # what it is, for people: "node 0: supervisor"
    argv: tuple[str, ...]
    env: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        assigned = [f"{name}={value if value == HIDDEN else shlex.quote(value)}" for name, value in self.env.items()]
        return "\n".join([f"# {self.title}", " \\\n  ".join([*assigned, shlex.join(self.argv)])])


@dataclass(frozen=True)
class Submission:
    """All that submitting a job does: printable, and the same every time for the same job and run."""

    backend: str
    job: JobSpec
    run: RunRef
    submits: tuple[Command, ...]  # what `submit` executes
    starts: tuple[Command, ...]  # what each node starts from there: its torchrun
    files: dict[str, str] = field(default_factory=dict)  # files written for the backend: path -> text
    warnings: tuple[str, ...] = ()  # fields of the spec that this backend does not honour

    def __str__(self) -> str:
        head = [f"# {self.backend}: attempt {self.run.attempt} of {self.run.url}"]
        head += [f"# not honoured here: {warning}" for warning in self.warnings]
        files = [f"# file {path}\n{text.rstrip()}" for path, text in self.files.items()]
        blocks = ["\n".join(head), *files, *(str(command) for command in (*self.submits, *self.starts))]
        return "\n\n".join(blocks) + "\n"


@dataclass(frozen=True)
class Finding:
    """One thing that `doctor` has looked at. `ok` is None for what is good to know, but neither right nor wrong."""

    what: str
    says: str
    ok: bool | None


@dataclass(frozen=True)
class LastWords:
    """What a backend kept of a node that crashed, and that is not in the run's logs."""

    key: str  # tells one crash from another
    lines: list[str]  # as in a node's log


class Handle(Protocol):
    """A submitted attempt, as the launcher that submitted it holds it."""

    @property
    def backend_id(self) -> str:
        """What the backend calls it: a process id, a Slurm job id, a Kubernetes Job's name."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What whoever started it should know, such as what the cluster warned of."""

    def poll(self) -> int | None:
        """The attempt's exit code once it has ended, else None. Does not wait."""

    def stop(self) -> None:
        """Ask it to checkpoint and stop."""

    def kill(self) -> None:
        """End it now."""

    def detach(self) -> None:
        """Let it go on when this launcher ends."""


@dataclass(frozen=True)
class Together:
    """What a sweep's runs are started by, where a backend starts all of them by one command."""

    command: Command
    files: dict[str, str]  # written for the backend beside those of the runs: path -> text

    def __str__(self) -> str:
        files = [f"# file {path}\n{text.rstrip()}" for path, text in self.files.items()]
        return "\n\n".join([*files, str(self.command)]) + "\n"


class Backend(Protocol):
    """A place where jobs run. `render` is pure; what has an effect starts from its result or from storage."""

    name: str

    def render(self, job: JobSpec, run: RunRef) -> Submission:
        """What would be executed and written. Raises: ConfigError for a job that cannot run there."""

    def submit(self, submission: Submission, *, tethered: bool) -> Handle:
        """Start it. Tethered, it stops cleanly when this launcher dies without `detach`.

        Raises: ConfigError if it could not be started, with the reason.
        """

    def status(self, storage: Storage, attempt: int) -> RunState | None:
        """What the backend itself knows of an attempt, or None if it knows nothing."""

    def logs(self, storage: Storage, attempt: int) -> list[str]:
        """Paths below the run of what the nodes of an attempt printed, by node."""

    def last_words(self, storage: Storage, attempt: int, known: set[str]) -> list[LastWords]:
        """What crashed nodes of an attempt printed and could not write down, but for the keys in `known`.

        Raises: TorchrelayError if it cannot be asked for.
        """

    def stop(self, storage: Storage) -> None:
        """Ask the newest attempt to checkpoint and stop. Raises: ConfigError if it is not running."""

    def cancel(self, storage: Storage) -> None:
        """End the newest attempt now. Raises: ConfigError if it is not running."""


_BACKENDS = {
    "local": "torchrelay_launch.backends.local.backend:LocalBackend",
    "slurm": "torchrelay_launch.backends.slurm.backend:SlurmBackend",
    "kubernetes": "torchrelay_launch.backends.kubernetes.backend:KubernetesBackend",
}


def load_backend(name: str) -> Backend:
    """The backend of this name; its module is imported only now. Raises: ConfigError if there is none."""
    if name not in _BACKENDS:
        raise ConfigError(f"there is no backend {name!r}; there is: {', '.join(_BACKENDS)}")
    module, _, attribute = _BACKENDS[name].partition(":")
    return cast("Backend", getattr(importlib.import_module(module), attribute)())
