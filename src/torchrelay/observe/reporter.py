"""What a rank has to tell of its training. Rank 0 writes it down for all; the others stay silent."""

from collections.abc import Mapping

import torch

from torchrelay.contract.errors import StorageError
from torchrelay.observe.meter import Meter
from torchrelay.observe.observer import Observer
from torchrelay.saver import Saving

Metrics = Mapping[str, float | torch.Tensor]


class Reporter:
    """Tells all of it to the observer, if this rank has one. Steps are counted as steps done."""

    def __init__(self, observer: Observer | None, device: torch.device, log_every: int) -> None:
        self._observer, self._log_every = observer, log_every
        self._meter = Meter(device)

    def restored(self, step: int) -> None:
        if self._observer is not None:
            self._observer.restored(step)

    def started(self, step: int, total: int | None, world_size: int, resumed_from: str | None) -> None:
        """Training begins or goes on; `resumed_from` is a checkpoint's folder."""
        if self._observer is not None:
            self._observer.started(step, total, world_size, resumed_from)
        self._meter.restart(step)

    def due(self, step: int, total: int | None) -> bool:
        """Whether the metrics of a step are written down."""
        return step % self._log_every == 0 or step == total

    def step(
        self, step: int, total: int | None, metrics: Metrics, *, samples: int = 0, data_wait_s: float = 0.0
    ) -> None:
        """A step and its metrics. Cheap where they are not due: nothing is computed."""
        if self._observer is None:
            return
        self._meter.add(samples, data_wait_s)
        if self.due(step, total):
            values = resolved(metrics) | self._meter.take(step)
            self._observer.step(step, total, values, None if total is None else self._meter.eta_s(step, total))

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        if self._observer is not None:
            self._observer.evaluation(step, metrics)

    def stopping(self, step: int, reason: str) -> None:
        """All ranks have agreed to stop after this step."""
        if self._observer is not None:
            self._observer.events.write("stopping", step=step, reason=reason)

    def stood_still(self, seconds: float, waited_s: float) -> None:
        """For a save, of which it waited for the one before."""
        self._meter.stall(seconds, waited_s)

    def saved(self, saving: Saving, **paced: float) -> None:
        """A checkpoint is committed. `paced`: with `every: auto`, what it cost, and when the next is due."""
        if self._observer is not None:
            self._observer.saved(saving, **paced)

    def save_failed(self, step: int, error: StorageError) -> None:
        if self._observer is not None:
            self._observer.events.write("checkpoint_failed", step=step, error=str(error))

    def hand_over(self) -> None:
        """Give the operating system what is buffered of the events, for others to see; cheap."""
        if self._observer is not None:
            self._observer.events.flush()

    def flush(self) -> None:
        """Write down all that is buffered; object storage has it a little later."""
        if self._observer is not None:
            self._observer.flush()


def resolved(metrics: Metrics) -> dict[str, float]:
    """Their values; waits for a GPU that still computes them."""
    return {name: value.item() if isinstance(value, torch.Tensor) else float(value) for name, value in metrics.items()}
