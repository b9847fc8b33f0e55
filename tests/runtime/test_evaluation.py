"""Evaluating: every sample once over all ranks, and a stop that breaks it off."""

from typing import Any

import pytest
import torch
from torch import nn

from torchrelay.train.devices import Precision
from torchrelay.train.evaluation import Evaluator, Loading
from torchrelay.world import World


class _Counting:
    """Counts how often each sample is evaluated."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        raise AssertionError("evaluating asks for sums, never for a loss")

    def sums(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        assert not model.training
        self.seen += batch.tolist()
        torch.rand(3)
        return {"index": batch.sum(), "count": torch.tensor(len(batch))}

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        return totals


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 10, 11])
def test_every_sample_is_evaluated_once(world_size: int, n: int) -> None:
    totals, asked = {"val/index": 0.0, "val/count": 0.0}, set()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for rank in range(world_size):
        task, asks = _Counting(), []
        world = World(rank, world_size)
        evaluator = Evaluator.of(world, task, Precision("fp32", world.device), list(range(n)), Loading(3, 0, 0))  # type: ignore[arg-type]
        found = evaluator.evaluate(nn.Identity().train(), lambda asks=asks: bool(asks.append(1)))  # type: ignore[misc]
        assert found is not None
        totals = {name: totals[name] + value for name, value in found.items()}
        asked.add(len(asks))
    assert totals == {"val/index": n * (n - 1) / 2, "val/count": n}
    assert len(asked) == 1, "ranks must ask whether to stop equally often"
    assert torch.equal(torch.get_rng_state(), state)


def test_a_stop_breaks_an_evaluation_off() -> None:
    task, world = _Counting(), World()
    evaluator = Evaluator.of(world, task, Precision("fp32", world.device), list(range(100)), Loading(3, 0, 0))  # type: ignore[arg-type]
    model = nn.Identity().train()
    assert evaluator.evaluate(model, lambda: len(task.seen) >= 6) is None
    assert len(task.seen) == 6
    assert model.training
