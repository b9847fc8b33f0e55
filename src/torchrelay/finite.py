"""Seeing that the loss is a number, without making a GPU wait."""

import math
from typing import NamedTuple

import torch

from torchrelay.contract.errors import DivergedError


class NotFinite(NamedTuple):
    """A loss that is no finite number, and the step that it is of."""

    value: float
    step: int


class FiniteCheck:
    """Looks at a loss at once where it is on the CPU, and one call later where it is on a GPU."""

    def __init__(self) -> None:
        self._host: torch.Tensor | None = None
        self._copied: torch.cuda.Event | None = None
        self._step = 0

    def look(self, loss: torch.Tensor | float, step: int) -> NotFinite | None:
        """The first loss that is not a finite number, with its step, or None. loss: one element."""
        if isinstance(loss, torch.Tensor) and loss.device.type == "cuda":
            bad = self.resolve()
            self._copy(loss, step)
            return bad
        value = loss.item() if isinstance(loss, torch.Tensor) else loss
        return None if math.isfinite(value) else NotFinite(value, step)

    def resolve(self) -> NotFinite | None:
        """The same for the loss that is still on its way from the GPU."""
        if self._copied is None or self._host is None:
            return None
        self._copied.synchronize()
        self._copied = None
        value = self._host.item()
        return None if math.isfinite(value) else NotFinite(value, self._step)

    def _copy(self, loss: torch.Tensor, step: int) -> None:
        if self._host is None:
            self._host = torch.empty((), dtype=torch.float64, pin_memory=True)
        self._host.copy_(loss.detach().reshape(()).to(torch.float64), non_blocking=True)
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._copied.record()
        self._step = step


def diverged(bad: NotFinite, rank: int, newest: str | None) -> DivergedError:
    """The error that ends the run. `newest`: folder of the newest good checkpoint."""
    rest = f"the newest good checkpoint is {newest}" if newest else "there is no checkpoint yet"
    return DivergedError(
        f"the loss is {bad.value} at step {bad.step} on rank {rank}; {rest}. A retry would end the same way: "
        "lower the learning rate, clip gradients, or look at the data"
    )
