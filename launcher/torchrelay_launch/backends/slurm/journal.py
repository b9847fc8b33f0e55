"""What an attempt on Slurm adds to its records: how its job began on the nodes, and how it was decided to go on.

    attempts/N/slurm.json       the start that this attempt is: whoever creates it runs it
    attempts/N/slurm-end.json   what ended it, and what follows

They hold what Slurm forgets a few minutes after a job, or never knew, and make a run readable without accounting.
"""

import contextlib
import dataclasses
import json
import time
from dataclasses import dataclass, field
from typing import TypeVar

from torchrelay.contract import layout, records
from torchrelay.contract.errors import StorageError
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.records import AttemptRecord, Failure, OutcomeRecord
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.slurm.states import Cause


@dataclass(frozen=True)
class Begin:
    """The start of a job on its nodes."""

    job_id: str
    restart_count: int  # SLURM_RESTART_COUNT
    nodes: list[str]  # names, node 0 first
    at: float
    step: int | None = None  # newest checkpoint then


@dataclass(frozen=True)
class End:
    """What ended an attempt, and what follows. `next_job` is empty if nothing does."""

    cause: Cause
    says: str  # for people
    at: float
    step: int | None = None  # newest checkpoint then
    failed_nodes: list[str] = field(default_factory=list)
    next_job: str = ""
    exit_code: int = 0


T = TypeVar("T", Begin, End)


@dataclass(frozen=True)
class Past:
    """One attempt of a run, as far as Slurm is concerned."""

    number: int
    begin: Begin
    end: End | None


def begin_file(attempt: int) -> str:
    return layout.attempt_file(attempt, "slurm")


def end_file(attempt: int) -> str:
    return layout.attempt_file(attempt, "slurm-end")


def write_begin(storage: Storage, attempt: int, begin: Begin) -> bool:
    """Take an attempt. Returns whether it was still free. Raises: StorageError."""
    try:
        storage.create(begin_file(attempt), _dump(begin))
    except FileExistsError:
        return False
    return True


def write_end(storage: Storage, attempt: int, end: End) -> None:
    """Note the end of an attempt; the first word holds. Raises: StorageError."""
    with contextlib.suppress(FileExistsError):
        storage.create(end_file(attempt), _dump(end))


def read_begin(storage: Storage, attempt: int) -> Begin | None:
    values = _read(storage, begin_file(attempt))
    return None if values is None else _made(Begin, values)


def read_end(storage: Storage, attempt: int) -> End | None:
    values = _read(storage, end_file(attempt))
    if values is None:
        return None
    end = _made(End, values)
    return dataclasses.replace(end, cause=Cause(end.cause))


def history(storage: Storage) -> list[Past]:
    """All attempts that ran on Slurm, oldest first. Raises: StorageError."""
    found = []
    for number in records.attempt_numbers(storage):
        begin = read_begin(storage, number)
        if begin is not None:
            found.append(Past(number, begin, read_end(storage, number)))
    return found


def newest_step(storage: Storage) -> int | None:
    """Step of the newest checkpoint. Raises: StorageError."""
    from torchrelay.contract import manifest  # takes longer to import than all of this

    newest = manifest.newest_committed(storage)
    return newest.step if newest else None


def set_backend_id(storage: Storage, attempt: int, job_id: str) -> None:
    """Note which job an attempt is, once Slurm has told. Only the owner of the attempt does this."""
    path = layout.attempt_file(attempt, "attempt")
    record = records.read(storage, AttemptRecord, path)
    if record is not None:
        storage.replace(path, records.dump(dataclasses.replace(record, backend_id=job_id)))


def set_workdir(storage: Storage, attempt: int, workdir: str, submitted_from: str) -> None:
    """Note where an attempt runs that runs in a copy. Only before the attempt can begin."""
    path = layout.attempt_file(attempt, "attempt")
    record = records.read(storage, AttemptRecord, path)
    if record is not None:
        changed = dataclasses.replace(record, workdir=workdir, submitted_from=submitted_from)
        storage.replace(path, records.dump(changed))


def outcome_of(storage: Storage, attempt: int) -> OutcomeRecord | None:
    return records.read(storage, OutcomeRecord, layout.attempt_file(attempt, "outcome"))


def conclude(storage: Storage, attempt: int, outcome: Outcome, failure: Failure | None, exit_code: int) -> None:
    """Write the outcome of an attempt whose supervisors could not."""
    record = OutcomeRecord(outcome, exit_code, time.time(), failure=failure)
    with contextlib.suppress(FileExistsError):
        storage.create(layout.attempt_file(attempt, "outcome"), records.dump(record))


def _dump(value: Begin | End) -> bytes:
    return (json.dumps(dataclasses.asdict(value), indent=1, sort_keys=True) + "\n").encode()


def _read(storage: Storage, path: str) -> dict[str, object] | None:
    try:
        values = json.loads(storage.read(path))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise StorageError(f"{storage.url}/{path} is damaged: {error}") from error
    if not isinstance(values, dict):
        raise StorageError(f"{storage.url}/{path} is damaged: not an object")
    return values


def _made(cls: type[T], values: dict[str, object]) -> T:
    known = {one.name for one in dataclasses.fields(cls)}
    try:
        return cls(**{key: value for key, value in values.items() if key in known})  # type: ignore[arg-type]
    except TypeError as error:
        raise StorageError(f"a record of Slurm's is damaged: {error}") from error
