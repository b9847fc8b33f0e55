"""The agreement, with two ranks in lockstep and an all-reduce that is worked out on paper."""

import itertools
import signal

import pytest
import torch

from torchrelay import stop
from torchrelay.signals import StopSignals
from torchrelay.stop import Agreement
from torchrelay.world import World


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


class Reduction:
    """Keeps each rank's messages by round; waiting gives the maximum over both, which both must have sent by then."""

    def __init__(self) -> None:
        self.rounds: list[dict[int, torch.Tensor]] = []
        self._next = {}

    def all_reduce(self, message: torch.Tensor, _op: object, *, group: int, async_op: bool) -> "Pending":
        assert async_op
        number = self._next.setdefault(group, itertools.count()).__next__()
        if number == len(self.rounds):
            self.rounds.append({})
        self.rounds[number][group] = message.clone()
        return Pending(message, self.rounds[number])


class Pending:
    def __init__(self, message: torch.Tensor, sent: dict[int, torch.Tensor]) -> None:
        self._message, self._sent = message, sent

    def wait(self) -> None:
        assert len(self._sent) == 2, "a rank waits for a message that the other has not sent"
        self._message.copy_(torch.stack(list(self._sent.values())).amax(dim=0))


class Pair:
    """Two ranks that tick in turn; the rank stands in for its process group."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, save_every_s: float | None = None) -> None:
        self.clock, self.reduction = Clock(), Reduction()
        monkeypatch.setattr(stop, "time", self.clock)
        monkeypatch.setattr(stop.dist, "all_reduce", self.reduction.all_reduce)
        self.signals = [StopSignals(impatient=False) for _ in range(2)]
        worlds = [World(rank=rank, world_size=2, side_group=rank + 1) for rank in range(2)]
        pairs = zip(worlds, self.signals, strict=True)
        self.ranks = [Agreement(world, signals, save_every_s) for world, signals in pairs]

    def tick(self, seconds: float, *, within: bool = False) -> tuple[int, bool]:
        """A tick of both after a step of so many seconds; what they agree on."""
        self.clock.now += seconds
        for rank in self.ranks:
            rank.tick(within=within)
        (stop_0, save_0), (stop_1, save_1) = ((rank.stop, rank.save_due) for rank in self.ranks)
        assert (stop_0, save_0) == (stop_1, save_1), "the ranks do not agree"
        return stop_0, save_0


@pytest.mark.parametrize("told", [0, 1])
@pytest.mark.parametrize("step_s", [0.00001, 0.0005, 0.01, 0.5])
def test_both_stop_at_the_same_tick_soon_after_a_signal(monkeypatch, told, step_s):
    pair = Pair(monkeypatch)
    for _ in range(500):
        assert pair.tick(step_s) == (0, False)
    pair.signals[told].received = signal.SIGUSR1
    ticks = next(number for number in range(1, 1000) if pair.tick(step_s)[0])
    assert pair.tick(step_s)[0] == signal.SIGUSR1
    assert ticks <= max(2, min(128, 2 * 0.25 / step_s) + 1)


def test_short_steps_make_few_messages(monkeypatch):
    pair = Pair(monkeypatch)
    for _ in range(6400):
        pair.tick(0.00001)
    assert len(pair.reduction.rounds) < 130


def test_steps_that_become_slow_are_noticed(monkeypatch):
    pair = Pair(monkeypatch)
    for _ in range(1000):
        pair.tick(0.00001)
    for _ in range(130):
        pair.tick(0.25)
    before = len(pair.reduction.rounds)
    pair.tick(0.25)
    assert len(pair.reduction.rounds) == before + 1


@pytest.mark.parametrize("already", [0, 5, 37])
def test_a_stop_after_a_quick_evaluation_does_not_wait_for_many_slow_steps(monkeypatch, already):
    pair = Pair(monkeypatch)
    for _ in range(10):
        pair.tick(0.9)
    for _ in range(1000 + already):
        pair.tick(0.0005, within=True)
    pair.tick(0.9)
    pair.signals[1].received = signal.SIGTERM
    ticks = next(number for number in range(1, 1000) if pair.tick(0.9)[0])
    assert ticks <= 3


def test_a_stop_after_the_step_that_ends_with_an_evaluation_comes_soon(monkeypatch):
    pair = Pair(monkeypatch)
    for _ in range(20):
        pair.tick(0.15)
    for _ in range(50):
        pair.tick(0.0005, within=True)
    pair.tick(0.0005)
    pair.tick(0.15)
    pair.signals[1].received = signal.SIGTERM
    ticks = next(number for number in range(1, 1000) if pair.tick(0.15)[0])
    assert ticks <= 3


def test_asking_within_every_step_makes_few_messages_too(monkeypatch):
    pair = Pair(monkeypatch)
    for _ in range(3200):
        pair.tick(0.00001)
        pair.tick(0.00001, within=True)
    assert len(pair.reduction.rounds) < 130
    for _ in range(130):
        pair.tick(0.1)
        pair.tick(0.1, within=True)
    pair.signals[0].received = signal.SIGTERM
    assert any(pair.tick(0.1, within=bool(number % 2))[0] for number in range(4))


def test_a_save_is_due_by_rank_0s_clock_and_once_only(monkeypatch):
    pair = Pair(monkeypatch, save_every_s=2.5)
    saves = []
    for tick in range(250):
        if pair.tick(0.1)[1]:
            saves.append(tick)
            for rank in pair.ranks:
                rank.saved()
    assert 8 <= len(saves) <= 10
    assert min(later - earlier for earlier, later in itertools.pairwise(saves)) >= 25


def test_nothing_is_under_way_after_a_drain(monkeypatch):
    pair = Pair(monkeypatch)
    for _ in range(5):
        pair.tick(0.1)
    pair.signals[1].received = signal.SIGTERM
    pair.tick(0.1)
    for rank in pair.ranks:
        rank.drain()
    assert [rank.stop for rank in pair.ranks] == [signal.SIGTERM] * 2
    assert pair.tick(0.1)[0] == signal.SIGTERM  # and the agreement can go on


def test_alone_there_is_nobody_to_ask(monkeypatch):
    clock, signals = Clock(), StopSignals(impatient=False)
    monkeypatch.setattr(stop, "time", clock)
    alone = Agreement(World(), signals, 10.0)
    alone.tick()
    assert (alone.stop, alone.save_due) == (0, False)
    clock.now = 11.0
    signals.received = signal.SIGTERM
    alone.tick()
    assert (alone.stop, alone.save_due) == (signal.SIGTERM, True)
    alone.saved()
    alone.tick()
    assert not alone.save_due
