"""When to save, how training and saving go beside each other, and what to do when a save fails."""

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchrelay.checkpoint import CheckpointManager, Pending, Saved
from torchrelay.contract.errors import StorageError
from torchrelay.contract.training import Checkpoint, KeepBest

log = logging.getLogger(__name__)
_WORTH_A_WARNING_S = 0.5


@dataclass(frozen=True)
class Saving:
    """One save that is committed. Seconds: from its start to the commit, and those that training stood still for it.

    `waited_s`, a part of `stall_s`: until the save before it was done.
    """

    step: int
    folder: str
    size_bytes: int
    seconds: float
    stall_s: float
    waited_s: float = 0.0


@dataclass
class State:
    """What a checkpoint is made of: the same on all ranks, this rank's own, and the metrics of exactly this state."""

    step: int
    shared: dict[str, Any]
    private: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    samples: int | None = None
    from_rank_0: list[str] = field(default_factory=list)  # names of tensors that differ between ranks: rank 0's count

    def known(self) -> dict[str, Any]:
        """What the manager takes beside the state itself."""
        return {"samples": self.samples, "from_rank_0": self.from_rank_0}


@dataclass(frozen=True)
class _UnderWay:
    step: int
    pending: Pending[Saved]
    stall_s: float
    waited_s: float


class Saver:
    """Saves by the policy, one save at a time. `newest` is the folder of the newest checkpoint written or restored.

    `saved` and `failed` are called on the training thread with what came of each save. All ranks hear the same of a
    save, so only the one with `speaks` warns.
    """

    def __init__(self, manager: CheckpointManager, policy: Checkpoint, *, speaks: bool = True) -> None:
        self.manager = manager
        self.newest: str | None = None
        self.saved_step: int | None = None
        self.saved: Callable[[Saving], None] = lambda _saving: None
        self.failed: Callable[[int, StorageError], None] = lambda _step, _error: None
        self._policy = policy
        self._asked = False
        self._under_way: _UnderWay | None = None
        self._begun_step: int | None = None
        self._warned = self._missed = False
        self._level = logging.WARNING if speaks else logging.DEBUG

    @property
    def busy(self) -> bool:
        """Whether a save is under way."""
        return self._under_way is not None and not self._under_way.pending.done

    @property
    def untold(self) -> bool:
        """Whether a save has begun of which `saved` or `failed` has not told yet."""
        return self._under_way is not None

    @property
    def broken(self) -> bool:
        """Whether the save that was under way has failed in a way that ends the run; `finish` raises it."""
        if self._under_way is None or not self._under_way.pending.done:
            return False
        error = self._under_way.pending.error
        return error is not None and not self._goes_on_after(error)

    def ask_if_best(self, metrics: Mapping[str, float], best: float | None) -> float | None:
        """Have the next boundary save if an evaluation is the best so far, by `keep_best`; the best there is then.

        Warns once where the evaluation lacks the metric.
        """
        keep = self._policy.keep_best
        if keep is None:
            return best
        if keep.metric not in metrics and not self._missed:
            self._missed = True
            there = ", ".join(metrics) or "none"
            log.log(self._level, "checkpoint.keep_best: no metric %s in an evaluation; there is %s", keep.metric, there)
        value = metrics.get(keep.metric)
        if value is None or not better(keep, value, best):
            return best
        self.ask()
        return value

    def reopen(self, step: int) -> None:
        """Have the checkpoint of a step saved again, for an evaluation that came after it; unless it was saved here.

        What this process has saved or is saving stays as it is, since a checkpoint never changes: that is warned of.
        """
        under_way = self._under_way is not None and self._under_way.step == step
        if under_way or (self.saved_step == step and self._begun_step == step):
            text = "the checkpoint of step %d was saved before this evaluation and goes without its metrics, which the "
            log.log(self._level, text + "events have: evaluate within the loop, before its step ends", step)
        else:
            self.saved_step = None

    def ask(self) -> None:
        """Have the next boundary save, whatever the policy says."""
        self._asked = True

    def due(self, step: int, *, by_clock: bool) -> bool:
        """Whether to save after so many steps; the same on all ranks, given that `by_clock` is."""
        if step in (self.saved_step, self._begun_step):
            return False
        by_steps = self._policy.every.steps is not None and step > 0 and step % self._policy.every.steps == 0
        return by_steps or by_clock or self._asked

    def prepare(self, state: State) -> None:
        """Have memory ready for a state like this one. Raises: ConfigError for one that cannot be saved."""
        self.manager.prepare(state.shared, state.private, state.from_rank_0)

    def begin(self, state: State) -> float:
        """Copy the state and write it behind the training. Waits first for the save before, if that is under way.

        Collective: yes. Returns the seconds waited. Raises: as `finish` does.
        """
        began = time.monotonic()
        self.finish()
        waited_s = time.monotonic() - began
        self._asked = False
        self._begun_step = state.step
        pending = self.manager.begin(state.step, state.shared, state.private, state.metrics, **state.known())
        self._under_way = _UnderWay(state.step, pending, time.monotonic() - began, waited_s)
        self._warn_if_slow(waited_s)
        return waited_s

    def poll(self) -> None:
        """Tell what came of the save that was under way, if it is done and nothing that ends the run."""
        if self._under_way is not None and self._under_way.pending.done and not self.broken:
            self.finish()

    def finish(self) -> None:
        """Wait for the save that is under way, and tell what came of it. On all ranks it ends alike.

        Raises: StorageError if the policy is to stop then, SupersededError, ConfigError, PeerLostError.
        """
        under_way, self._under_way = self._under_way, None
        if under_way is None:
            return
        try:
            saved = under_way.pending.result()
        except StorageError as error:
            self.failed(under_way.step, error)
            if not self._goes_on_after(error):
                raise
            log.log(self._level, "no checkpoint at step %d, training goes on: %s", under_way.step, error)
        else:
            self._committed(saved, under_way.stall_s, under_way.waited_s)

    def settle(self, timeout_s: float) -> None:
        """Give the save that is under way a last chance, before a failure ends this process. Raises nothing."""
        if self._under_way is not None and self._under_way.pending.wait(timeout_s):
            try:
                self.finish()
            except Exception as error:  # noqa: BLE001  # there is a failure already, and it is what matters
                log.warning("the last checkpoint failed too: %s", error)

    def save_now(self, state: State) -> None:
        """Save, and return when it is committed; nothing if that step is. Tries once more if storage fails.

        Collective: yes. Raises: StorageError, and as `finish` does.
        """
        began = time.monotonic()
        try:
            self.finish()
        except StorageError as error:
            log.log(self._level, "the checkpoint before has failed: %s", error)
        waited_s = time.monotonic() - began
        if self.saved_step == state.step:  # it was just that one
            return
        try:
            saved = self._save(state)
        except StorageError as error:
            self.failed(state.step, error)
            log.log(self._level, "no checkpoint at step %d, trying once more: %s", state.step, error)
            saved = self._save(state)
        self._committed(saved, time.monotonic() - began, waited_s)

    def _save(self, state: State) -> Saved:
        self._asked = False
        self._begun_step = state.step
        return self.manager.save(state.step, state.shared, state.private, state.metrics, **state.known())

    def _committed(self, saved: Saved, stall_s: float, waited_s: float) -> None:
        self.saved_step, self.newest = saved.step, saved.folder
        self.saved(Saving(saved.step, saved.folder, saved.bytes, saved.seconds, stall_s, waited_s))

    def _goes_on_after(self, error: BaseException) -> bool:
        return isinstance(error, StorageError) and self._policy.on_storage_failure == "continue"

    def _warn_if_slow(self, waited_s: float) -> None:
        if waited_s > _WORTH_A_WARNING_S and not self._warned:
            self._warned = True
            log.log(
                self._level,
                "training waited %.1f s for the checkpoint before to be written: saves take longer than "
                "checkpoint.every (%s) leaves them; `every: auto` finds an interval that they can keep up with",
                waited_s,
                self._policy.every,
            )


def better(keep: KeepBest, value: float, best: float | None) -> bool:
    """Whether a metric's value is better than the best so far; what is no finite number never is."""
    if not math.isfinite(value):
        return False
    if best is None:
        return True
    return value < best if keep.mode == "min" else value > best
