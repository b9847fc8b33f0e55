"""Making a run, and claiming the next attempt of one."""

import contextlib
import dataclasses
import getpass
import os
import socket
import time

from torchrelay import __version__
from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.records import AttemptRecord, RunRecord, SpecRecord
from torchrelay.contract.settings import Json, to_json
from torchrelay.contract.storage import Storage
from torchrelay_launch.runs.locate import open_for
from torchrelay_launch.spec.models import JobSpec


@dataclasses.dataclass(frozen=True)
class SweepPoint:
    """Which point of a sweep a run is."""

    sweep: str
    point: int  # from 1
    values: dict[str, Json]


def new_run_id(name: str) -> str:
    """A fresh id that sorts by time: name-yyyymmdd-hhmmss-xxxx, in UTC."""
    return f"{name}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.urandom(2).hex()}"


def create_run(root_url: str, job: JobSpec, source: str = "", of: SweepPoint | None = None) -> Storage:
    """Make a run under a storage and return its folder. `source` is the spec as the user wrote it, kept for reading.

    Raises: StorageError if the storage cannot be written; ConfigError if it would let two attempts claim the run;
    FileExistsError if the point of a sweep has its run.
    """
    run_id = layout.point_run_id(of.sweep, of.point) if of else new_run_id(job.name)
    storage = open_for(job, root_url).folder(run_id)
    if source:
        with contextlib.suppress(FileExistsError):  # of a point whose start was cut off
            storage.create(layout.SPEC_SOURCE, source.encode())
    record = RunRecord(run_id, job.name, time.time(), __version__)
    if of:
        record = dataclasses.replace(record, sweep=of.sweep, point=of.point, values=of.values)
    try:
        records.create_run(storage, record)  # last: a folder without it is no run
    except ConfigError:
        with contextlib.suppress(StorageError):
            storage.delete(layout.SPEC_SOURCE)
        raise
    return storage


def claim_attempt(
    storage: Storage,
    job: JobSpec,
    sources: dict[str, str],
    backend: str,
    workdir: str,
    expected_last: int,
) -> AttemptRecord:
    """Claim attempt `expected_last + 1` of a run. Of several at once exactly one gets it.

    Raises: ConfigError if somebody else has it; StorageError.
    """
    record = new_attempt(expected_last + 1, job, backend, workdir)
    claim(storage, record, job, sources)
    return record


def new_attempt(number: int, job: JobSpec, backend: str, workdir: str) -> AttemptRecord:
    """The record of an attempt that starts now, from this machine."""
    return AttemptRecord(
        number=number,
        backend=backend,
        created_at=time.time(),
        host=socket.gethostname(),
        workdir=workdir,
        nodes=job.resources.nodes.minimum,
    )


def claim(storage: Storage, record: AttemptRecord, job: JobSpec, sources: dict[str, str]) -> None:
    """Write an attempt's record and spec. Raises: ConfigError if somebody else has its number; StorageError."""
    try:
        storage.create(layout.attempt_file(record.number, "attempt"), records.dump(record))
    except FileExistsError:
        raise _already_claimed(storage, record.number) from None
    storage.create(layout.attempt_file(record.number, "spec"), records.dump(SpecRecord(_plain(job), sources)))


def _plain(job: JobSpec) -> dict[str, Json]:
    values = to_json(job)
    assert isinstance(values, dict)
    return values


def _already_claimed(storage: Storage, number: int) -> ConfigError:
    holder = records.read(storage, AttemptRecord, layout.attempt_file(number, "attempt"))
    where = f", from {holder.host} on {holder.backend}" if holder else ""
    return ConfigError(
        f"the run {storage.url} is being resumed as attempt {number}{where}; `torchrelay status {storage.url}` shows it"
    )


def user_at_host() -> str:
    """Who asks, for records: user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = "unknown"
    return f"{user}@{socket.gethostname()}"
