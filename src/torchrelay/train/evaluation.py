"""Evaluation: every sample once over all ranks, without a trace on training's random numbers."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from torchrelay.data.loader import EvaluationSampler, MapDataset, make_loader
from torchrelay.data.randomness import generators_kept
from torchrelay.data.workers import DataLoader
from torchrelay.train.devices import Precision, to_device
from torchrelay.train.tasks import Task
from torchrelay.world import World

log = logging.getLogger(__name__)


@dataclass
class Evaluator:
    """The validation set of one run on this rank. Its loader and workers live as long as it does."""

    world: World
    task: Task
    precision: Precision
    sampler: EvaluationSampler
    loader: "DataLoader[Any]"

    @classmethod
    def of(cls, world: World, task: Task, precision: Precision, dataset: MapDataset, loading: "Loading") -> "Evaluator":
        """An evaluator of a data set."""
        sampler = EvaluationSampler(len(dataset), loading.batch, world.rank, world.world_size)
        loader = make_loader(dataset, sampler, loading.seed, loading.workers, world.device)
        return cls(world, task, precision, sampler, loader)

    def evaluate(self, model: nn.Module, should_stop: Callable[[], bool]) -> dict[str, float] | None:
        """The task's metrics over the whole set, each named `val/...`; None if a stop came first.

        `model` is the bare module, not DistributedDataParallel. `should_stop` is asked as often on every rank.
        Collective: yes
        """
        was_training = model.training
        share_buffers(model, self.world)
        model.eval()
        try:
            with generators_kept(self.world.device), torch.no_grad():
                sums = self._sums(model, should_stop)
        finally:
            model.train(was_training)
        if sums is None:
            return None
        names = sorted(sums)
        totals = self.world.sum(torch.stack([sums[name] for name in names]))
        metrics = self.task.metrics(dict(zip(names, totals.tolist(), strict=True)))
        return {f"val/{name}": float(value) for name, value in metrics.items()}

    def _sums(self, model: nn.Module, should_stop: Callable[[], bool]) -> dict[str, torch.Tensor] | None:
        """The sums over this rank's part, float64 on its device; None if a stop came."""
        sums: dict[str, torch.Tensor] = {}
        batches = iter(self.loader)
        for _ in range(self.sampler.most_batches):
            batch = next(batches, None)  # a rank with fewer batches still asks whether to stop
            if batch is not None:
                with self.precision.autocast():
                    found = self.task.sums(model, to_device(batch, self.world.device))
                for name, value in found.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().to(self.world.device, torch.float64)
            if should_stop():
                return None
        return sums if self.sampler.counts else {name: torch.zeros_like(value) for name, value in sums.items()}


def share_buffers(model: nn.Module, world: World) -> None:
    """Give all ranks rank 0's buffers, as DistributedDataParallel does before each step, and as checkpoints hold them.

    Collective: yes
    """
    if world.world_size > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


@dataclass(frozen=True)
class Loading:
    """How to load: samples per batch, workers, and the seed of what samples draw."""

    batch: int
    workers: int
    seed: int
