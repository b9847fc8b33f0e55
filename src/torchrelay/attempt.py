"""The attempt that this gang belongs to, and its claim to be the run's only writer. Imports no torch."""

import contextlib
import os
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from torchrelay import __version__
from torchrelay.contract import environment, layout, records
from torchrelay.contract.errors import ConfigError, StorageError, SupersededError
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import AttemptRecord, Heartbeat, RunRecord, SpecRecord
from torchrelay.contract.settings import Json, from_json
from torchrelay.contract.storage import Storage, open_storage
from torchrelay.contract.training import Checkpoint, Train
from torchrelay.contract.units import Duration, Interval

_beating = threading.Lock()


@dataclass(frozen=True)
class Attempt:
    """Where this gang's run lives, who it is as a writer, and the spec (JSON of the launcher's model; may be empty)."""

    storage: Storage
    writer: Writer
    spec: dict[str, Json] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)  # "train.model.target" -> "jobs/x.yaml:12:13"
    supervised: bool = False

    @property
    def train(self) -> Train | None:
        section = self.spec.get("train")
        return from_json(Train, section) if section else None

    @property
    def checkpoint(self) -> Checkpoint:
        section = self.spec.get("checkpoint")
        return from_json(Checkpoint, section) if section else Checkpoint()

    @property
    def gpus_per_node(self) -> int | None:
        """GPUs that the spec asks for, or None if there is no spec to say so."""
        resources = self.spec.get("resources")
        gpus = resources.get("gpus_per_node") if isinstance(resources, dict) else None
        return gpus if isinstance(gpus, int) else None

    @property
    def watchdog_s(self) -> float:
        restarts = self.spec.get("restarts")
        text = restarts.get("watchdog") if isinstance(restarts, dict) else None
        return float(Duration.parse(str(text))) if text else 0.0


def of_environment() -> Attempt | None:
    """The attempt that a supervisor started this process for, or None. Raises: ConfigError, StorageError."""
    url = os.environ.get(environment.RUN)
    if url is None:
        return None
    storage = open_storage(url)
    writer = Writer(int(os.environ[environment.ATTEMPT]), int(os.environ.get(environment.RESTART, "0")))
    path = layout.attempt_file(writer.attempt, "spec")
    record = records.read(storage, SpecRecord, path)
    if record is None:
        raise ConfigError(f"{url} has no {path}: {environment.RUN} names a folder that is not a run")
    return Attempt(storage, writer, record.spec, record.sources, supervised=True)


@dataclass(frozen=True)
class Unsupervised:
    """What `Run.attach` was told, for when there is no spec to say it."""

    name: str | None = None
    storage: str | None = None
    save_every: str | None = None

    def url(self) -> str:
        """URL of the run: by default `runs/<name of the script>`."""
        parent = self.storage or os.environ.get(environment.STORAGE) or "runs"
        return open_storage(parent).folder(self.name or _script_name()).url

    def spec(self) -> dict[str, Json]:
        """As much of a spec as there is to say."""
        spec: dict[str, Json] = {"name": self.name or _script_name()}
        if self.save_every is not None:
            try:
                Interval.parse(self.save_every)
            except ValueError as error:
                raise ConfigError(f"save_every={self.save_every!r}: {error}") from error
            spec["checkpoint"] = {"every": self.save_every}
        return spec


def claim_next(asked: Unsupervised) -> Attempt:
    """Begin the next attempt of a run without a launcher; only rank 0 does this. Raises: ConfigError, StorageError."""
    spec, storage = asked.spec(), open_storage(asked.url())
    name = str(spec["name"])
    now = time.time()
    with contextlib.suppress(FileExistsError):  # an earlier attempt made it
        records.create_run(storage, RunRecord(name, name, now, __version__))
    number = _claim_number(storage)
    storage.create(layout.attempt_file(number, "spec"), records.dump(SpecRecord(spec)))
    return Attempt(storage, Writer(number), spec)


def _claim_number(storage: Storage) -> int:
    while True:
        number = max(records.attempt_numbers(storage), default=0) + 1
        record = AttemptRecord(number, "none", time.time(), socket.gethostname(), str(Path.cwd()))
        try:
            storage.create(layout.attempt_file(number, "attempt"), records.dump(record))
        except FileExistsError:
            continue  # somebody else was faster
        return number


def claim_writer(attempt: Attempt) -> None:
    """Make this gang the run's only writer; only rank 0 does this. Raises: SupersededError, StorageError."""
    newest = records.newest_writer(attempt.storage)
    if newest is not None and newest >= attempt.writer:
        raise superseded(attempt.writer, newest)
    record = Heartbeat(time.time(), os.getpid(), socket.gethostname(), *_identity(), restart=attempt.writer.restart)
    try:
        attempt.storage.create(layout.restart_file(attempt.writer), records.dump(record))
    except FileExistsError:
        raise superseded(attempt.writer, attempt.writer) from None


def superseded(own: Writer, newest: Writer) -> SupersededError:
    """The error for a gang that has found a newer one, or one of its own number."""
    return SupersededError(
        f"attempt {own.attempt} (restart {own.restart}) may not write: attempt {newest.attempt} (restart "
        f"{newest.restart}) owns the run now; `torchrelay status` shows it"
    )


def beat(attempt: Attempt) -> None:
    """Replace the heartbeat, by which `status` sees that the run lives; a supervisor does this otherwise."""
    every_s = Heartbeat.interval_on(attempt.storage)
    who = (os.getpid(), socket.gethostname(), *_identity())
    record = Heartbeat(time.time(), *who, restart=attempt.writer.restart, interval_s=every_s)
    attempt.storage.replace(layout.attempt_file(attempt.writer.attempt, "heartbeat"), records.dump(record))


def beat_soon(attempt: Attempt) -> None:
    """The same without waiting for it or failing: training must not stand still for a storage that is slow."""

    def try_to() -> None:
        if not _beating.acquire(blocking=False):
            return  # the last one still tries
        try:
            with contextlib.suppress(StorageError):
                beat(attempt)
        finally:
            _beating.release()

    threading.Thread(target=try_to, name="torchrelay-heartbeat", daemon=True).start()


def _identity() -> tuple[float, str]:
    """When this process started, in clock ticks since boot, and the boot's id: they tell a reused pid apart."""
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    return float(after_name[19]), Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _script_name() -> str:
    name = Path(sys.argv[0]).stem if sys.argv and sys.argv[0] not in ("", "-c", "-m") else ""
    return name if name and name[0].isalnum() else "interactive"
