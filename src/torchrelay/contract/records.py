"""The JSON records of a run and its attempts, and reading and writing them.

A record is written once with `create` unless it says otherwise; readers ignore keys that they do not know, so that an
older launcher can read what a newer one wrote.
"""

import contextlib
import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from torchrelay.contract import layout
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.layout import Writer
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Storage, on_object_storage


@dataclass(frozen=True)
class RunRecord:
    """run.json: what the run is. Never changes."""

    run_id: str
    name: str
    created_at: float  # seconds since the epoch
    torchrelay: str  # version that made the run
    sweep: str = ""  # id of the sweep that it is a run of
    point: int = 0  # number of its point there, from 1
    values: dict[str, Json] = field(default_factory=dict)  # what the sweep sets for it, by dotted field


@dataclass(frozen=True)
class SweepRecord:
    """sweep.json in a sweep's folder, which lies beside those of its runs. Never changes."""

    sweep_id: str
    name: str
    created_at: float  # seconds since the epoch
    torchrelay: str  # version that made the sweep
    backend: str
    workdir: str  # folder that relative paths of its jobs start from
    fields: list[str]  # the dotted fields that any point sets, in the order of the spec
    points: list[dict[str, Json]]  # of each point, what the sweep sets, by dotted field


@dataclass(frozen=True)
class AttemptRecord:
    """attempts/N/attempt.json: who runs it and where. Whoever creates it owns the attempt."""

    number: int
    backend: str
    created_at: float
    host: str  # host name of the machine that started it
    workdir: str  # folder that relative paths of the job start from
    backend_id: str = ""  # Slurm job id or Kubernetes Job name
    nodes: int = 1
    submitted_from: str = ""  # folder of the user's that `workdir` is a copy of; empty if it is none
    resume_from: int | None = None  # step that the attempt was told to start from; see contract/lineage.py


@dataclass(frozen=True)
class SpecRecord:
    """attempts/N/spec.json, or points/N.json of a sweep: the resolved spec, and where each value was written."""

    spec: dict[str, Json]  # to_json of the launcher's JobSpec
    sources: dict[str, str] = field(default_factory=dict)  # "train.model.target" -> "jobs/x.yaml:12:13"


@dataclass(frozen=True)
class Heartbeat:
    """attempts/N/heartbeat.json: replaced by node 0's supervisor every `interval_s` while the attempt lives."""

    INTERVAL_S: ClassVar[float] = 5.0
    OBJECT_STORAGE_INTERVAL_S: ClassVar[float] = 15.0

    at: float
    pid: int
    host: str
    process_started: float  # start time of the process in clock ticks since boot: tells a reused pid apart
    boot_id: str
    restart: int = 0
    interval_s: float = INTERVAL_S  # how long after this one the next is due

    @classmethod
    def interval_on(cls, storage: Storage) -> float:
        """Seconds between heartbeats: each costs a request where the run lies on object storage."""
        return cls.OBJECT_STORAGE_INTERVAL_S if on_object_storage(storage) else cls.INTERVAL_S


@dataclass(frozen=True)
class StopRequest:
    """attempts/N/stop.json: somebody asked the attempt to stop; its supervisor looks for it every few seconds.

    stop.json of a sweep, which is replaced when somebody asks again: no further point is to be started.
    """

    kind: str  # "stop" (checkpoint first) or "cancel" (now)
    at: float
    by: str  # user@host


@dataclass(frozen=True)
class Failure:
    """The first thing that went wrong, as a user should see it."""

    error: str  # one line, or a few: what, where, how to mend it
    exit_code: int
    rank: int | None = None
    node: int | None = None
    step: int | None = None
    traceback: str = ""  # empty for what is the user's to fix
    retryable: bool = True
    peer_lost: bool = False  # only followed another rank's end: that rank's own failure is the cause


@dataclass(frozen=True)
class OutcomeRecord:
    """attempts/N/outcome.json: how the attempt ended. Rank 0 writes it for a clean end, the supervisor otherwise."""

    outcome: Outcome
    exit_code: int
    at: float
    step: int | None = None
    failure: Failure | None = None
    restarts: int = 0


Record = TypeVar("Record", RunRecord, SweepRecord, AttemptRecord, SpecRecord, Heartbeat, StopRequest, OutcomeRecord)


def dump(record: Any) -> bytes:
    """A record as indented JSON."""
    return (json.dumps(dataclasses.asdict(record), indent=1, sort_keys=True) + "\n").encode()


def load(cls: type[Record], data: bytes, where: str) -> Record:
    """The record in `data`. Raises: StorageError, naming `where`, if it is none."""
    try:
        values = json.loads(data)
        known = {f.name for f in dataclasses.fields(cls)}
        values = {key: value for key, value in values.items() if key in known}
        if cls is OutcomeRecord:
            values["outcome"] = Outcome(values["outcome"])
            values["failure"] = Failure(**values["failure"]) if values.get("failure") else None
        return cls(**values)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise StorageError(f"{where} is damaged: {error}") from error


def read(storage: Storage, cls: type[Record], path: str) -> Record | None:
    """The record at a path below a run's storage, or None if there is none."""
    try:
        data = storage.read(path)
    except FileNotFoundError:
        return None
    return load(cls, data, f"{storage.url}/{path}")


def create_run(storage: Storage, record: RunRecord) -> None:
    """Make a run, by its record. Object storage is asked to make it twice, to see that it refuses a name that is taken.

    Raises: FileExistsError if there is one; ConfigError if two attempts could claim a run there; StorageError.
    """
    data = dump(record)
    storage.create(layout.RUN_RECORD, data)
    if not on_object_storage(storage):
        return  # a link needs no trial
    try:
        storage.create(layout.RUN_RECORD, data)
    except FileExistsError:
        return
    except StorageError:
        with contextlib.suppress(StorageError):  # or else a run is listed that nobody has started
            storage.delete(layout.RUN_RECORD)
        raise
    with contextlib.suppress(StorageError):  # what is to be said matters more
        storage.delete(layout.RUN_RECORD)
    raise ConfigError(
        f"cannot keep a run at {storage.url}: the storage lets an object be made twice, although it was asked not to "
        "(on S3 by `If-None-Match: *`), so two attempts could both claim the run; name another storage with "
        "--storage, or see whether a newer release of that server refuses it"
    )


def read_run(storage: Storage) -> RunRecord:
    """The run that this storage holds. Raises: ConfigError if it holds none."""
    record = read(storage, RunRecord, layout.RUN_RECORD)
    if record is None:
        raise ConfigError(
            f"there is no run at {storage.url}: it has no {layout.RUN_RECORD}; `torchrelay ls` lists runs"
        )
    return record


def attempt_numbers(storage: Storage) -> list[int]:
    """Numbers of all attempts of a run, oldest first."""
    numbers = _attempt_folders(storage)
    while numbers and not storage.list(layout.attempt_folder(numbers[-1])):
        numbers.pop()  # where there are folders, one is there before the record by which the attempt is claimed
    return numbers


def _attempt_folders(storage: Storage) -> list[int]:
    return sorted(int(name) for name in storage.list(layout.ATTEMPTS) if name.isdigit())


def node_logs(storage: Storage, attempt: int) -> list[str]:
    """Paths of what the nodes of an attempt printed, by node."""
    folder = f"{layout.LOGS}/a{attempt:04d}"
    return [f"{folder}/{name}" for name in storage.list(folder)]


def newest_writer(storage: Storage) -> Writer | None:
    """The newest gang that has claimed the run; whoever is older must not commit."""
    for attempt in reversed(_attempt_folders(storage)):
        names = storage.list(layout.attempt_folder(attempt))
        restarts = [int(n[8:-5]) for n in names if n.startswith("restart-") and n[8:-5].isdigit()]
        if names:  # as in `attempt_numbers`
            return Writer(attempt, max(restarts, default=-1))
    return None
