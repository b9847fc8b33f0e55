"""Loaders: the same samples from any step on, whoever loads them, and no trace on the rank's own random numbers."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import IterableDataset

from torchrelay.contract.errors import ConfigError
from torchrelay.data.loader import EvaluationSampler, SeededDataset, StepSampler, checked_dataset, make_loader
from torchrelay.data.order import EpochOrder
from torchrelay.data.plan import Plan
from torchrelay.data.randomness import generators_kept, mix, seed_sample

CPU = torch.device("cpu")


class Drawing:
    """Samples that draw from all three generators."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor([index, torch.rand(()).item(), random.random(), np.random.rand()], dtype=torch.float64)


def batches(plan: Plan, first: int, last: int, workers: int = 0) -> list[torch.Tensor]:
    return list(make_loader(Drawing(), StepSampler(plan, 3, first, last), 3, workers, CPU))


def test_a_loader_that_starts_later_gives_what_an_earlier_one_would_have() -> None:
    plan = Plan(20, 6, world_size=2, rank=1, micro_batch=2)
    whole = batches(plan, 0, 13)
    for first in (1, 4, 9):
        skipped = sum(len(plan.micro_batches(step)) for step in range(first))
        later = batches(plan, first, 13)
        assert len(later) == len(whole) - skipped
        assert all(torch.equal(a, b) for a, b in zip(whole[skipped:], later, strict=True))


@pytest.mark.timeout(120)
def test_workers_give_the_same_samples() -> None:
    plan = Plan(20, 6)
    alone, with_workers = batches(plan, 2, 9), batches(plan, 2, 9, workers=2)
    assert all(torch.equal(a, b) for a, b in zip(alone, with_workers, strict=True))


def test_another_world_size_gives_each_sample_the_same_random_numbers() -> None:
    def rows(world_size: int) -> set[tuple[float, ...]]:
        ranks = [batches(Plan(20, 6, world_size, rank), 0, 4) for rank in range(world_size)]
        return {tuple(row) for loaded in ranks for batch in loaded for row in batch.tolist()}

    assert len(rows(1)) == 20
    assert rows(1) == rows(3)


def test_epochs_differ_in_order_and_in_what_samples_draw() -> None:
    plan = Plan(20, 20)
    first, second = batches(plan, 0, 2)
    assert first[:, 0].tolist() != second[:, 0].tolist()
    drawn = {row[0]: row[1:] for row in first.tolist()}
    assert all(drawn[row[0]] != row[1:] for row in second.tolist())


def test_loading_leaves_the_ranks_own_random_numbers_alone() -> None:
    def draw() -> tuple[float, float, float]:
        return torch.rand(()).item(), random.random(), float(np.random.rand())

    seed_sample(1, 2, 3)
    undisturbed = draw()
    seed_sample(1, 2, 3)
    assert len(batches(Plan(20, 6), 0, 5)) == 5
    assert draw() == undisturbed


def test_samples_that_draw_nothing_are_not_seeded() -> None:
    class Plain(Drawing):
        draws_nothing = True

    torch.manual_seed(5)
    expected = torch.rand(3, dtype=torch.float32).tolist()
    torch.manual_seed(5)
    rows = [SeededDataset(Plain(), 0)[(0, i)][1].item() for i in range(3)]
    assert rows == pytest.approx(expected)


@given(n=st.integers(1, 60), batch=st.integers(1, 70), world=st.integers(1, 5), start=st.integers(0, 40))
def test_the_sampler_follows_plan_and_order(n: int, batch: int, world: int, start: int) -> None:
    plan = Plan(n, batch, world, world - 1, micro_batch=3)
    expected = []
    for step in range(start, start + 25):
        order = EpochOrder(n, 9, plan.epoch(step))
        expected += [[(m.epoch, int(order[p])) for p in range(m.start, m.stop)] for m in plan.micro_batches(step)]
    assert list(StepSampler(plan, 9, start, start + 25)) == expected


@given(n=st.integers(1, 40), batch=st.integers(1, 10), world=st.integers(1, 6))
def test_evaluation_takes_every_sample_once_and_ranks_ask_as_often(n: int, batch: int, world: int) -> None:
    samplers = [EvaluationSampler(n, batch, rank, world) for rank in range(world)]
    seen = [index for sampler in samplers if sampler.counts for keys in sampler for _, index in keys]
    assert seen == list(range(n))
    assert len({sampler.most_batches for sampler in samplers}) == 1
    assert max(len(sampler) for sampler in samplers) == samplers[0].most_batches
    assert all(len(sampler) >= 1 for sampler in samplers)


class _Endless(IterableDataset[int]):
    def __iter__(self) -> Any:
        return iter(range(3))


class _Unsized:
    def __getitem__(self, index: int) -> int:
        return index


@pytest.mark.parametrize(
    ("dataset", "says"),
    [(_Endless(), "can't be indexed"), (object(), "can't be indexed"), (_Unsized(), "no length"), ([], "is empty")],
)
def test_data_that_has_no_positions_is_refused(dataset: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=rf"train\.data\.train: \w+ .*{says}|train\.data\.train: \w+ {says}"):
        checked_dataset(dataset, "train.data.train")


def test_mixing_tells_its_parts_apart() -> None:
    mixed = {mix(seed, epoch, index) for seed in range(12) for epoch in range(12) for index in range(12)}
    assert len(mixed) == 12**3
    assert mix(1, 2, 3) == mix(1, 2, 3)
    assert all(0 <= value < 2**64 for value in mixed)
    assert mix(1, 2, 3) == 0xD0734750FDE362B3


def test_generators_are_kept_when_something_fails() -> None:
    def draw_and_fail() -> None:
        with generators_kept():
            torch.rand(5)
            raise KeyError

    torch.manual_seed(1)
    state = torch.get_rng_state()
    with pytest.raises(KeyError):
        draw_and_fail()
    assert torch.equal(torch.get_rng_state(), state)
