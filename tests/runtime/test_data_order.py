"""The order of samples: a bijection for every size and key, well mixed, fast, and the same for ever."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrelay.data.order import EpochOrder


@given(n=st.integers(1, 5000), seed=st.integers(0, 2**63), epoch=st.integers(0, 10**6))
@settings(max_examples=150)
def test_every_index_comes_exactly_once(n: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(EpochOrder(n, seed, epoch)[:]), np.arange(n))


@given(n=st.integers(1, 2**40), seed=st.integers(0, 2**31), data=st.data())
def test_large_sets_take_no_list(n: int, seed: int, data: st.DataObject) -> None:
    positions = data.draw(st.lists(st.integers(0, n - 1), max_size=20, unique=True))
    indices = EpochOrder(n, seed, 0)[positions]
    assert indices.dtype == np.int64
    assert all(0 <= index < n for index in indices)
    assert len(set(indices.tolist())) == len(positions)


def test_positions_may_be_asked_for_in_any_way() -> None:
    order = EpochOrder(1000, 7, 3)
    whole = order[:]
    assert len(order) == 1000
    assert order[17].shape == ()
    assert order[17] == whole[17]
    assert np.array_equal(order[10:20:2], whole[10:20:2])
    assert np.array_equal(order[np.array([[5, 1], [999, 0]])], whole[[[5, 1], [999, 0]]])
    assert order[[]].shape == (0,)


@pytest.mark.parametrize("positions", [[-1], [1000], [0, 5000]])
def test_positions_beyond_the_epoch_are_refused(positions: list[int]) -> None:
    with pytest.raises(IndexError, match="expected 0 to 999"):
        EpochOrder(1000, 0, 0)[positions]


@pytest.mark.parametrize(("n", "epoch"), [(0, 0), (2**62 + 1, 0), (10, -1)])
def test_impossible_orders_are_refused(n: int, epoch: int) -> None:
    with pytest.raises(ValueError, match="expected"):
        EpochOrder(n, 0, epoch)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    keys = [(seed, epoch) for seed in range(20) for epoch in range(20)]
    assert len({tuple(EpochOrder(100, *key)[:].tolist()) for key in keys}) == len(keys)


@pytest.mark.parametrize("n", [3, 7, 10, 40])
def test_every_place_is_equally_likely_for_every_sample(n: int) -> None:
    """Chi-squared over (position, index) and many epochs, against its normal approximation at 5 sigma."""
    epochs = 200 * n
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), EpochOrder(n, 5, epoch)[:]] += 1
    expected = epochs / n
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = (n - 1) ** 2
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_neighbours_do_not_stay_neighbours() -> None:
    indices = EpochOrder(100_000, 1, 0)[:].astype(float)
    assert abs(np.corrcoef(indices[:-1], indices[1:])[0, 1]) < 0.02
    assert abs(np.corrcoef(indices, np.arange(len(indices)))[0, 1]) < 0.02
    following_epoch = EpochOrder(100_000, 1, 1)[:].astype(float)
    assert abs(np.corrcoef(indices, following_epoch)[0, 1]) < 0.02


def test_a_million_samples_take_well_under_a_second_each_time() -> None:
    order = EpochOrder(10**6, 1, 0)
    times = []
    for _ in range(3):
        began = time.process_time()
        assert len(order[:]) == 10**6
        times.append(time.process_time() - began)
    assert min(times) < 0.8


def test_the_order_never_changes() -> None:
    """Checkpoints hold positions: another order would train twice on some samples of an epoch that was half done."""
    assert EpochOrder(1, 0, 0)[:].tolist() == [0]
    assert EpochOrder(10, 0, 0)[:].tolist() == [0, 3, 7, 9, 5, 8, 4, 2, 6, 1]
    assert EpochOrder(10, 0, 1)[:].tolist() == [6, 7, 1, 2, 8, 5, 3, 0, 4, 9]
    assert EpochOrder(1000, 42, 7)[:8].tolist() == [722, 291, 504, 274, 556, 191, 392, 352]
    assert EpochOrder(60_000, 1, 0)[59_992:].tolist() == [18987, 54903, 5548, 23507, 51443, 617, 33711, 44917]
    assert EpochOrder(2**40, 1, 3)[[0, 1, 2**39, 2**40 - 1]].tolist() == [
        634357059396,
        912160828175,
        957461692933,
        269920852689,
    ]
    assert EpochOrder(10**12, 2**63, 0)[[0, 10**12 - 1]].tolist() == [19667831666, 849536706635]
