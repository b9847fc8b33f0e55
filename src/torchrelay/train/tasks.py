"""Tasks: how a batch becomes a loss, and what an evaluation measures."""

import inspect
import math
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import nn

LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Sums = dict[str, torch.Tensor]


class Task(Protocol):
    """What the trainer needs to know of a problem. A batch is what torch's default collate makes, on the device."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        """The mean loss over the samples of a batch, a scalar."""

    def sums(self, model: nn.Module, batch: Any) -> Sums:
        """Sums over a batch that an evaluation adds up, scalars; every call gives the same names."""

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        """What is reported, without the `val/`, from the sums over the whole validation set."""


class Classification:
    """Batches of (inputs, classes); the model gives (batch, classes) scores. Measures loss and accuracy."""

    def __init__(self, loss: LossFunction) -> None:
        self.criterion = loss

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        inputs, classes = batch
        return self.criterion(model(inputs), classes)

    def sums(self, model: nn.Module, batch: Any) -> Sums:
        inputs, classes = batch
        scores = model(inputs)
        return {
            "loss": self.criterion(scores, classes).double() * len(classes),
            "correct": (scores.argmax(dim=-1) == classes).sum(),
            "count": torch.tensor(len(classes)),
        }

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        return {"loss": totals["loss"] / totals["count"], "accuracy": totals["correct"] / totals["count"]}


class LanguageModel:
    """Batches of (tokens, next tokens), (batch, length) int64; the model gives (batch, length, vocabulary) scores.

    Measures loss, in nats per token, and perplexity.
    """

    def __init__(self, loss: LossFunction) -> None:
        self.criterion = loss

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        tokens, following = batch
        return self.criterion(model(tokens).flatten(0, 1), following.flatten())

    def sums(self, model: nn.Module, batch: Any) -> Sums:
        count = batch[1].numel()
        return {"loss": self.loss(model, batch).double() * count, "count": torch.tensor(count)}

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        loss = totals["loss"] / totals["count"]
        return {"loss": loss, "perplexity": math.exp(loss) if loss < 700 else math.inf}


BY_NAME: dict[str, Callable[[LossFunction], Task]] = {"classification": Classification, "lm": LanguageModel}


def takes_loss(make: Any) -> bool:
    """Whether a task of the user's own is to be made with the spec's loss, or with nothing."""
    return bool(inspect.signature(make).parameters)
