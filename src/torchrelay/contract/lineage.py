"""Which checkpoints are in a run's line, and in which order, also after `resume --from STEP` sent it back.

Later writers' checkpoints are newer than earlier writers', whatever their steps. An attempt that was told to start from
step S leaves behind what older attempts did after S, and takes their checkpoint of step S before any other of theirs.
The rest stays where it is, but no restore, status or digest takes it any more. Since the rule looks only at who wrote a
checkpoint, an attempt that is restarted or resumed goes on from its own newest checkpoint.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torchrelay.contract import layout, records
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import AttemptRecord
from torchrelay.contract.storage import Storage


class Stepped(Protocol):
    """A checkpoint, as far as the line is concerned."""

    @property
    def step(self) -> int: ...

    @property
    def writer(self) -> Writer: ...


Checkpoint = TypeVar("Checkpoint", bound=Stepped)


@dataclass(frozen=True)
class Fork:
    """An attempt that was told to start from a step."""

    attempt: int
    step: int


def forks(storage: Storage) -> list[Fork]:
    """All attempts of a run that were sent back to a step, the newest first. Raises: StorageError."""
    found = []
    for number in reversed(records.attempt_numbers(storage)):
        record = records.read(storage, AttemptRecord, layout.attempt_file(number, "attempt"))
        if record is not None and record.resume_from is not None:
            found.append(Fork(number, record.resume_from))
    return found


def in_line(checkpoints: Iterable[Checkpoint], sent_back: Iterable[Fork]) -> list[Checkpoint]:
    """The checkpoints that a restore may take, in the order in which it should try them. Pure.

    `sent_back`: the run's forks, the newest first.
    """
    left = sorted(checkpoints, key=lambda one: (one.writer, one.step), reverse=True)
    ordered: list[Checkpoint] = []
    for fork in sent_back:
        ordered += [one for one in left if one.writer.attempt >= fork.attempt]
        before = [one for one in left if one.writer.attempt < fork.attempt and one.step <= fork.step]
        left = sorted(
            before, key=lambda one: one.step == fork.step, reverse=True
        )  # stable: the fork's step comes first
    return ordered + left
