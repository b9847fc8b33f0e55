import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.contract.units import UNITS, Duration, Interval, NodeCount, Size


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30m", 1800), ("12h", 43200), ("2d", 172800), ("1h30m", 5400), ("0.5s", 0.5)]
)
def test_durations_are_seconds(text: str, seconds: float) -> None:
    assert Duration.parse(text) == seconds


@pytest.mark.parametrize(("text", "size"), [("4GiB", 4 * 2**30), ("500MB", 500 * 10**6), ("1.5KiB", 1536), ("7B", 7)])
def test_sizes_are_bytes(text: str, size: int) -> None:
    assert Size.parse(text) == size


@pytest.mark.parametrize(("text", "counts"), [("4", (4, 4)), ("2..8", (2, 8))])
def test_node_counts_are_fixed_or_a_range(text: str, counts: tuple[int, int]) -> None:
    count = NodeCount.parse(text)
    assert (count.minimum, count.maximum) == counts
    assert count.elastic == (counts[0] != counts[1])


def test_an_interval_is_steps_or_time_or_both() -> None:
    assert Interval.parse("200 steps") == Interval(200, None)
    assert Interval.parse("5m") == Interval(None, 300.0)
    assert Interval.parse("1 step or 90s") == Interval(1, 90.0)
    assert Interval.parse("auto") == Interval(auto=True)
    assert str(Interval(auto=True)) == "auto"


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        (Duration, "90"),
        (Duration, "12:00:00"),
        (Duration, "1 h"),
        (Duration, ""),
        (Size, "4"),
        (Size, "4gb"),
        (Size, "-1GiB"),
        (NodeCount, "0"),
        (NodeCount, "8..2"),
        (NodeCount, "2-8"),
        (Interval, "0 steps"),
        (Interval, "200"),
        (Interval, "5m or 6m"),
        (Interval, "0s"),
    ],
)
def test_what_is_no_such_quantity_is_refused(unit: type, text: str) -> None:
    assert unit in UNITS
    with pytest.raises(ValueError, match="expected"):
        unit.parse(text)  # type: ignore[attr-defined]


@given(st.integers(0, 10**7))
def test_a_duration_reads_back_as_it_is_written(seconds: int) -> None:
    assert Duration.parse(str(Duration(seconds))) == seconds


@given(st.integers(0, 2**50))
def test_a_size_reads_back_as_it_is_written(size: int) -> None:
    assert Size.parse(str(Size(size))) == size


@given(st.integers(1, 10**9), st.one_of(st.none(), st.integers(1, 10**6)))
def test_an_interval_reads_back_as_it_is_written(steps: int, seconds: int | None) -> None:
    interval = Interval(steps, seconds)
    assert Interval.parse(str(interval)) == interval
