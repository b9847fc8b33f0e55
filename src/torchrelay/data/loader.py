"""torch DataLoaders that start at any step, and whose samples are the same whichever worker makes them."""

from collections.abc import Iterator
from typing import Any, Protocol, cast

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, get_worker_info

from torchrelay.contract.errors import ConfigError
from torchrelay.data.order import EpochOrder
from torchrelay.data.plan import Plan, part_of
from torchrelay.data.randomness import generators_kept, seed_sample
from torchrelay.data.workers import DataLoader

Key = tuple[int, int]  # epoch and sample index
_LOOKAHEAD = 4096  # positions whose indices are computed at once


class MapDataset(Protocol):
    """A map-style data set. With `draws_nothing = True` it promises that its samples need no random numbers."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def checked_dataset(dataset: Any, where: str) -> MapDataset:
    """The data set, if it has a length and can be indexed. Raises: ConfigError naming `where`."""
    kind = type(dataset).__name__
    if isinstance(dataset, IterableDataset) or not hasattr(dataset, "__getitem__"):
        raise ConfigError(
            f"{where}: {kind} can't be indexed; a map-style data set with __len__ and __getitem__ is needed, so that "
            "every sample can be found again after a resume"
        )
    try:
        length = len(dataset)
    except TypeError:
        raise ConfigError(f"{where}: {kind} has no length; give it a __len__") from None
    if length < 1:
        raise ConfigError(f"{where}: {kind} is empty")
    return cast("MapDataset", dataset)


class SeededDataset(Dataset[Any]):
    """A data set whose sample (epoch, index) draws its random numbers from (seed, epoch, index).

    In a rank's own process the generators are put back after each batch; a worker has no others to protect.
    """

    def __init__(self, dataset: MapDataset, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.draws = not getattr(dataset, "draws_nothing", False)

    def __getitem__(self, key: Key) -> Any:
        return self.__getitems__([key])[0]

    def __getitems__(self, keys: list[Key]) -> list[Any]:
        """The samples of a batch; torch's DataLoader calls this where a data set has it."""
        if not self.draws:
            return [self.dataset[index] for _, index in keys]
        if get_worker_info() is not None:
            return [self._sample(*key) for key in keys]
        with generators_kept():
            return [self._sample(*key) for key in keys]

    def _sample(self, epoch: int, index: int) -> Any:
        seed_sample(self.seed, epoch, index)
        return self.dataset[index]


class StepSampler(Sampler[list[Key]]):
    """The keys of this rank's micro-batches from step `first` to step `last`, across epochs."""

    def __init__(self, plan: Plan, seed: int, first: int, last: int) -> None:
        self.plan, self.seed, self.first, self.last = plan, seed, first, last

    def __iter__(self) -> Iterator[list[Key]]:
        plan = self.plan
        per_turn = max(1, _LOOKAHEAD * plan.world_size // plan.global_batch)
        step = self.first
        while step < self.last:
            epoch = plan.epoch(step)
            turn_ends = min(step + per_turn, (epoch + 1) * plan.steps_per_epoch, self.last)
            yield from self._keys(EpochOrder(plan.n, self.seed, epoch), epoch, range(step, turn_ends))
            step = turn_ends

    def _keys(self, order: EpochOrder, epoch: int, steps: range) -> Iterator[list[Key]]:
        """Several steps of one epoch at a time: small calls of the vectorised order would cost more than they do."""
        micros = [micro for step in steps for micro in self.plan.micro_batches(step)]
        indices = order[np.concatenate([np.arange(m.start, m.stop) for m in micros])].tolist()
        taken = 0
        for micro in micros:
            size = micro.stop - micro.start
            yield [(epoch, index) for index in indices[taken : taken + size]]
            taken += size


class EvaluationSampler(Sampler[list[Key]]):
    """The part of 0..n-1 that falls to this rank, in batches; where it is empty, the first sample alone."""

    def __init__(self, n: int, batch: int, rank: int, world_size: int) -> None:
        self.n, self.batch, self.rank, self.world_size = n, batch, rank, world_size

    @property
    def counts(self) -> bool:
        """Whether what this rank computes counts; a rank without samples takes part with a stand-in."""
        start, stop = part_of(self.n, self.rank, self.world_size)
        return start < stop

    @property
    def most_batches(self) -> int:
        """Batches of the rank that has the most."""
        largest = -(-self.n // self.world_size)
        return -(-largest // self.batch)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[list[Key]]:
        start, stop = part_of(self.n, self.rank, self.world_size) if self.counts else (0, 1)
        for first in range(start, stop, self.batch):
            yield [(0, index) for index in range(first, min(first + self.batch, stop))]


def make_loader(
    dataset: MapDataset, sampler: Sampler[list[Key]], seed: int, workers: int, device: torch.device
) -> "DataLoader[Any]":
    """A DataLoader over the sampler's batches, with persistent workers, and pinned memory for CUDA."""
    return DataLoader(
        SeededDataset(dataset, seed),
        batch_sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # the loader's own: making an iterator must not draw from the training's
    )
