"""How all ranks come to act on a stop, or on a save that is due by the clock, at the same step.

Every rank calls `tick` at the same places. Every few ticks a tiny all-reduce of the maximum starts in the background on
a side group, and its result is taken at the next such tick, so that nobody waits for it. The message is
[number of the stop signal, save due by rank 0's clock, whether a save in the background has ended the run, and twice
1 + ticks until the next agreement as rank 0 wants it]. Since the interval is in the message too, all ranks agree on it,
and on everything else, at the same tick.

Ticks come in two kinds, between steps and within something long such as an evaluation, and those of one kind can be a
thousand times longer than those of the other. So each kind has an interval of its own: else a stop just after a quick
evaluation would wait for as many steps as the evaluation had batches in 0.25 s.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist

from torchrelay.signals import StopSignals
from torchrelay.world import World

_EVERY_S = 0.25  # how often to agree; a stop is acted on within about two of these, or two steps
_MOST_TICKS = 64  # bounds the delay of a stop when ticks that were short become long
_LONG_TICK_S = 1.0  # from here on waiting for the answer at once costs nothing and saves a step


class Stopped(SystemExit):
    """The run was told to stop; all is saved. Not an error: let it pass, and the process ends as it should."""


class Agreement:
    """What the ranks have agreed on. `stop` is the number of the stop signal, 0 before one; it stays once set.

    `save_every_s` counts on rank 0, and may be changed there at any time. `busy` says whether a save is under way here:
    until it is done, and has had its say on `save_every_s`, none is due by the clock. `broken` says whether one has
    failed in a way that ends the run.
    """

    def __init__(self, world: World, signals: StopSignals, save_every_s: float | None) -> None:
        self.stop = 0
        self.save_due = False
        self.save_broken = False
        self.save_every_s = save_every_s
        self.busy: Callable[[], bool] = lambda: False
        self.broken: Callable[[], bool] = lambda: False
        self._world = world
        self._signals = signals
        self._last_save = time.monotonic()
        self._message = torch.zeros(5, dtype=torch.int64)
        self._pending: dist.Work | None = None
        self._pending_is_stale = False  # its word on saving is from before a save
        self._kinds = _Kind(), _Kind()  # between steps, within something
        self._within = False  # the kind of the tick before
        self._ticks_left = 1
        self._ticked_at = time.monotonic()

    def tick(self, *, within: bool = False) -> None:
        """Look whether there is something to act on. `within`: something long, rather than between two steps.

        Collective: yes
        """
        if self._world.side_group is None:
            self.stop = self.stop or self._signals.received
            self.save_due = self.save_due or self._due()
            self.save_broken = self.broken()
            return
        kind, now = self._kinds[within], time.monotonic()
        spent_s = now - self._ticked_at
        if within != self._within:
            spent_s = max(spent_s, kind.tick_s)  # of a step that ends with an evaluation only its last moment is seen
            self._within = within
            self._ticks_left = min(self._ticks_left, max(1, kind.interval))
        kind.spent_s += spent_s
        kind.ticks += 1
        self._ticks_left -= 1
        if self._ticks_left == 0:
            self._agree(kind)
            now = time.monotonic()
        self._ticked_at = now

    def saved(self) -> None:
        """Begin to count time anew: a checkpoint was saved.

        Collective: yes, between the same ticks
        """
        self.save_due = False
        self._pending_is_stale = True
        self._last_save = time.monotonic()

    def drain(self) -> None:
        """Take in what is still on its way, so that nothing is when the process group goes.

        Collective: yes
        """
        if self._pending is not None:
            self._take()
        self._ticks_left = 1

    def _agree(self, kind: "_Kind") -> None:
        if self._pending is not None:
            self._take()
        self._launch()
        if kind.interval == 0:
            self._take()
        self._ticks_left = max(1, kind.interval)

    def _launch(self) -> None:
        self._message[0] = self._signals.received
        self._message[1] = self._due() and not self.save_due
        self._message[2] = self.broken()
        for place, kind in enumerate(self._kinds, 3):
            wanted = kind.wanted_interval()
            self._message[place] = 1 + wanted if self._world.is_main else 0
        self._pending_is_stale = False
        self._pending = dist.all_reduce(self._message, dist.ReduceOp.MAX, group=self._world.side_group, async_op=True)

    def _take(self) -> None:
        assert self._pending is not None
        self._pending.wait()
        self._pending = None
        stop, save, broken, *intervals = self._message.tolist()
        self.stop = self.stop or stop
        self.save_due = self.save_due or (bool(save) and not self._pending_is_stale)
        self.save_broken = self.save_broken or bool(broken)
        for kind, interval in zip(self._kinds, intervals, strict=True):
            kind.interval = interval - 1

    def _due(self) -> bool:
        if self.save_every_s is None or not self._world.is_main:
            return False
        return time.monotonic() - self._last_save >= self.save_every_s and not self.busy()


@dataclass
class _Kind:
    """Ticks of one kind: those since the last agreement, in seconds without agreements, and the interval agreed on."""

    interval: int = 1
    ticks: int = 0
    spent_s: float = 0.0
    tick_s: float = 0.0  # the mean when it was last asked for
    _wanted: int = 1

    def wanted_interval(self) -> int:
        """The interval to ask for, from the ticks since it was last asked; without any, as before."""
        if self.ticks:
            self.tick_s = self.spent_s / self.ticks
            most = max(1, min(_MOST_TICKS, int(_EVERY_S / max(self.tick_s, 1e-9))))
            self._wanted = 0 if self.tick_s > _LONG_TICK_S else most
        self.ticks, self.spent_s = 0, 0.0
        return self._wanted
