"""Attempts that the job of a run claims by itself, to go on: they have the spec of the attempt before.

Whoever claims one may be killed at any moment, and its next start then takes up the same attempt.
"""

import contextlib

from torchrelay.contract import layout, records
from torchrelay.contract.errors import SupersededError
from torchrelay.contract.records import AttemptRecord
from torchrelay.contract.storage import Storage


def claim(storage: Storage, record: AttemptRecord) -> None:
    """Write the attempt's record and spec. Raises: SupersededError if somebody else has its number; StorageError."""
    try:
        storage.create(layout.attempt_file(record.number, "attempt"), records.dump(record))
    except FileExistsError:
        raise SupersededError(f"attempt {record.number} was claimed by somebody else") from None
    complete(storage, record.number)


def complete(storage: Storage, number: int) -> None:
    """Give an attempt of this job its spec, unless it has one. Raises: StorageError."""
    path = layout.attempt_file(number, "spec")
    if number > 1 and storage.size(path) is None:
        with contextlib.suppress(FileExistsError):
            storage.create(path, storage.read(layout.attempt_file(number - 1, "spec")))
