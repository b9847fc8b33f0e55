"""Data and tasks for the trainer's tests."""

import gc
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from torchrelay.train.tasks import Classification


class Points:
    """Points with two classes; `noise` draws from all generators. Reading `stop_at` sends SIGTERM to the rank, once.

    `read_s` is how long reading one takes: several ranks agree on a stop every 0.25 s, or every step if steps are slow.
    """

    def __init__(
        self,
        n: int,
        noise: float = 0.0,
        stop_at: int | None = None,
        flag: str = "",
        nan_at: int | None = None,
        read_s: float = 0.0,
    ) -> None:
        generator = torch.Generator().manual_seed(n)
        self.x = torch.randn(n, 4, generator=generator)
        self.y = (self.x.sum(1) > 0).long()
        self.noise, self.stop_at, self.flag, self.nan_at, self.read_s = noise, stop_at, flag, nan_at, read_s
        self.rank = os.getpid()

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if index == self.stop_at and not Path(self.flag).exists():
            Path(self.flag).touch()
            os.kill(self.rank, signal.SIGTERM)
        time.sleep(self.read_s)
        x = self.x[index] + self.noise * (torch.rand(4) + random.random() + np.random.rand())
        if index == self.nan_at:
            x = x * float("nan")
        return x.float(), self.y[index]


class StoppedInEvaluation(Classification):
    """Sends SIGTERM in evaluation number STOP_AT, once. STOP_FLAG names the file that counts them."""

    def sums(self, model: nn.Module, batch: Any) -> Any:
        flag = Path(os.environ.get("STOP_FLAG", "/dev/null"))
        seen = flag.read_text() if flag.is_file() else ""
        at = int(os.environ.get("STOP_AT", "0"))
        if len(seen) < at:
            flag.write_text(seen + "x")
            if len(seen) == at - 1:
                os.kill(os.getpid(), signal.SIGTERM)
        return super().sums(model, batch)


class WorseAndWorse(Classification):
    """Its loss grows from one evaluation to the next."""

    turns = 0

    def metrics(self, totals: Any) -> dict[str, float]:
        self.turns += 1
        return {"loss": float(self.turns)}


class Collected(Classification):
    """Says what the garbage collector is set to when this is made, and at each loss."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._say("made")

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self._say("stepping")
        return super().loss(model, batch)

    def _say(self, when: str) -> None:
        print(f"{when}: threshold {gc.get_threshold()[0]}, frozen {gc.get_freeze_count()}")


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
