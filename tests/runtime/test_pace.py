"""How `every: auto` chooses its interval from what it measures."""

import math

import pytest

from torchrelay.contract.training import Checkpoint
from torchrelay.contract.units import Duration, Interval
from torchrelay.pace import Pace
from torchrelay.saver import Saving


def pace(**policy: object) -> Pace:
    return Pace(Checkpoint(every=Interval(auto=True), **policy))  # type: ignore[arg-type]


def saving(stall_s: float, seconds: float, waited_s: float = 0.0) -> Saving:
    return Saving(1, "c", 1, seconds, stall_s, waited_s)


def steps(of: Pace, *, quiet_s: float, beside_s: float) -> None:
    for duration, kind in ((quiet_s, False), (beside_s, True)):
        of.skip()
        for count in range(10):
            of.tick(count * duration, saving=kind)


def test_the_first_save_comes_soon() -> None:
    assert pace().interval_s == 10.0


@pytest.mark.parametrize(("bound", "expected"), [(0.01, 20.0), (0.1, 2.0)])
def test_the_interval_keeps_the_stall_under_the_bound(bound: float, expected: float) -> None:
    one = pace(max_overhead=bound)
    one.saved(saving(0.2, 0.5))
    assert one.interval_s == pytest.approx(expected)


def test_slower_steps_beside_a_save_are_a_part_of_its_cost() -> None:
    one = pace()
    steps(one, quiet_s=0.1, beside_s=0.125)
    one.saved(saving(0.2, 1.2))
    assert one.interval_s == pytest.approx((0.2 + 1.0 * 0.2) / 0.01)


def test_faster_steps_beside_a_save_are_chance() -> None:
    one = pace()
    steps(one, quiet_s=0.2, beside_s=0.1)
    one.saved(saving(0.2, 1.2))
    assert one.interval_s == pytest.approx(20.0)


def test_it_is_never_shorter_than_two_saves_take_nor_longer_than_an_hour() -> None:
    slow = pace(max_overhead=0.5)
    slow.saved(saving(0.1, 30.0))
    assert slow.interval_s == 60.0
    dear = pace()
    dear.saved(saving(120.0, 130.0))
    assert dear.interval_s == 3600.0
    free = pace()
    free.saved(saving(0.0, 0.0))
    assert free.interval_s == 1.0


def test_waiting_for_the_save_before_is_not_counted_twice() -> None:
    one = pace()
    one.saved(saving(5.2, 5.5, waited_s=5.0))
    assert one.interval_s == pytest.approx((0.2) / 0.01)


def test_with_a_rate_of_failures_it_is_youngs() -> None:
    one = pace(mean_time_between_failures=Duration(7200))
    one.saved(saving(0.5, 0.5))
    assert one.interval_s == pytest.approx(math.sqrt(2 * 0.5 * 7200))
