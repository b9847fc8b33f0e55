"""The division of an epoch into steps, ranks and micro-batches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.data.plan import Micro, Plan, part_of

sizes = st.fixed_dictionaries(
    {
        "n": st.integers(1, 200),
        "global_batch": st.integers(1, 60),
        "world_size": st.integers(1, 9),
        "micro_batch": st.none() | st.integers(1, 20),
    }
)


def plans(given_sizes: dict[str, int]) -> list[Plan]:
    return [Plan(rank=rank, **given_sizes) for rank in range(given_sizes["world_size"])]


@given(sizes)
def test_an_epoch_uses_every_position_exactly_once_and_in_order(given_sizes: dict[str, int]) -> None:
    ranks = plans(given_sizes)
    used = []
    for step in range(ranks[0].steps_per_epoch):
        for plan in ranks:
            used += [p for m in plan.micro_batches(step) if m.weight for p in range(m.start, m.stop)]
    assert used == list(range(given_sizes["n"]))


@given(sizes, st.integers(0, 500))
def test_weights_make_the_mean_over_ranks_the_mean_over_the_batch(given_sizes: dict[str, int], step: int) -> None:
    ranks = plans(given_sizes)
    _, batch = ranks[0].batch(step)
    for plan in ranks:
        micros = plan.micro_batches(step)
        assert micros, "every rank takes part in every all-reduce"
        for micro in micros:
            counted = micro.weight * batch / plan.world_size
            assert counted == pytest.approx(micro.stop - micro.start if micro.weight else 0)
            assert micro.stop - micro.start <= (plan.micro_batch or batch)
    assert sum(m.weight for plan in ranks for m in plan.micro_batches(step)) == pytest.approx(len(ranks))


@given(sizes, st.integers(0, 500))
def test_the_global_batches_do_not_depend_on_the_world_size(given_sizes: dict[str, int], step: int) -> None:
    one = Plan(given_sizes["n"], given_sizes["global_batch"])
    for plan in plans(given_sizes):
        assert plan.batch(step) == one.batch(step)
        assert plan.epoch(step) == one.epoch(step)


def test_an_even_batch_has_weight_one() -> None:
    assert Plan(100, 8, world_size=2, rank=1).micro_batches(0) == [Micro(0, 4, 8, 1.0)]


def test_the_last_batch_of_an_epoch_is_short() -> None:
    plan = Plan(10, 4)
    assert plan.steps_per_epoch == 3
    assert plan.batch(2) == (8, 2)
    assert plan.batch(3) == (0, 4)
    assert plan.epoch(3) == 1
    assert [plan.ends_epoch(done) for done in range(7)] == [False, False, False, True, False, False, True]
    assert [plan.samples_done(done) for done in range(5)] == [0, 4, 8, 10, 14]


def test_a_rank_without_samples_stands_in_with_weight_0() -> None:
    assert Plan(9, 4, world_size=2, rank=0).micro_batches(2) == [Micro(0, 8, 9, 0.0)]
    assert Plan(9, 4, world_size=2, rank=1).micro_batches(2) == [Micro(0, 8, 9, 2.0)]


def test_steps_come_before_epochs() -> None:
    assert Plan(10, 4).total_steps(epochs=5, steps=None) == 15
    assert Plan(10, 4).total_steps(epochs=None, steps=7) == 7


@pytest.mark.parametrize("wrong", [(0, 1), (1, 0), (1, 1, 1, 1), (1, 1, 2, -1), (1, 1, 1, 0, 0)])
def test_impossible_plans_are_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="rank"):
        Plan(*wrong)


@given(st.integers(0, 1000), st.integers(1, 50))
def test_parts_cover_everything_and_differ_by_one_at_most(n: int, world_size: int) -> None:
    parts = [part_of(n, rank, world_size) for rank in range(world_size)]
    assert [p for start, stop in parts for p in range(start, stop)] == list(range(n))
    lengths = [stop - start for start, stop in parts]
    assert max(lengths) - min(lengths) <= 1
