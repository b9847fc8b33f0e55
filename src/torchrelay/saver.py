"""When to save, and what to do when that fails."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torchrelay.checkpoint.manager import CheckpointManager
from torchrelay.contract.errors import StorageError
from torchrelay.contract.training import Checkpoint, KeepBest

log = logging.getLogger(__name__)


@dataclass
class Saving:
    """One save that was done: times in seconds."""

    step: int
    folder: str
    size_bytes: int
    seconds: float


@dataclass
class State:
    """What a checkpoint is made of: the same on all ranks, this rank's own, and the metrics of exactly this state."""

    step: int
    shared: dict[str, Any]
    private: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    samples: int | None = None
    from_rank_0: list[str] = field(default_factory=list)  # names of tensors that differ between ranks: rank 0's count


class Saver:
    """Saves by the policy. `newest` is the folder of the newest checkpoint that was written or restored here."""

    def __init__(self, manager: CheckpointManager, policy: Checkpoint) -> None:
        self.manager = manager
        self.newest: str | None = None
        self.saved_step: int | None = None
        self.failed: Callable[[int, StorageError], None] = lambda _step, _error: None
        self._policy = policy
        self._asked = False

    def ask(self) -> None:
        """Have the next boundary save, whatever the policy says."""
        self._asked = True

    def due(self, step: int, *, by_clock: bool) -> bool:
        """Whether to save after so many steps; the same on all ranks, given that `by_clock` is."""
        if step == self.saved_step:
            return False
        by_steps = self._policy.every.steps is not None and step > 0 and step % self._policy.every.steps == 0
        return by_steps or by_clock or self._asked

    def try_save(self, state: State) -> Saving | None:
        """Save; when storage fails, say so and go on: the next save that is due is the next try.

        Collective: yes
        """
        try:
            return self.save(state)
        except StorageError as error:
            self._asked = False
            self.failed(state.step, error)
            log.warning("no checkpoint at step %d, training goes on: %s", state.step, error)
            return None

    def must_save(self, state: State) -> Saving:
        """Save, and try once more if storage fails. Raises: StorageError.

        Collective: yes
        """
        try:
            return self.save(state)
        except StorageError as error:
            self.failed(state.step, error)
            log.warning("no checkpoint at step %d, trying once more: %s", state.step, error)
            return self.save(state)

    def save(self, state: State) -> Saving:
        """Raises: StorageError, SupersededError.

        Collective: yes
        """
        began = time.monotonic()
        saved = self.manager.save(
            state.step,
            state.shared,
            state.private,
            state.metrics,
            samples=state.samples,
            from_rank_0=state.from_rank_0,
        )
        self._asked = False
        self.saved_step, self.newest = state.step, saved.folder
        return Saving(state.step, saved.folder, saved.bytes, time.monotonic() - began)


def better(keep: KeepBest, value: float, best: float | None) -> bool:
    """Whether a metric's value is better than the best so far; a NaN never is."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value < best if keep.mode == "min" else value > best
