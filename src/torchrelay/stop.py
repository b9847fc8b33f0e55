"""How all ranks come to act on a stop, or on a save that is due by the clock, at the same step.

Every rank calls `tick` at the same places. Every few ticks a tiny all-reduce of the maximum starts in the background on
a side group, and its result is taken at the next such tick, so that nobody waits for it. The message is
[number of the stop signal, save due by rank 0's clock, 1 + ticks until the next agreement as rank 0 wants it, whether
a save in the background has ended the run]. Since the interval is in the message too, all ranks agree on it, and on
everything else, at the same tick.
"""

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from torchrelay.signals import StopSignals
from torchrelay.world import World

_EVERY_S = 0.1  # how often to agree; a stop is acted on within about two of these, or two steps
_MOST_TICKS = 64  # bounds the delay of a stop when ticks that were short become long
_LONG_TICK_S = 1.0  # from here on waiting for the answer at once costs nothing and saves a step


class Stopped(SystemExit):
    """The run was told to stop; all is saved. Not an error: let it pass, and the process ends as it should."""


class Agreement:
    """What the ranks have agreed on. `stop` is the number of the stop signal, 0 before one; it stays once set.

    `save_every_s` counts on rank 0, and may be changed there at any time. `busy` says whether a save is under way here:
    until it is done, none is due by the clock. `broken` says whether one has failed in a way that ends the run.
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
        self._message = torch.zeros(4, dtype=torch.int64)
        self._pending: dist.Work | None = None
        self._pending_is_stale = False  # its word on saving is from before a save
        self._interval = 1
        self._ticks_left = self._ticks_between = 1
        self._tick_s = 0.0  # how long a tick took lately, agreements left out
        self._agreed_at = time.monotonic()

    def tick(self) -> None:
        """Look whether there is something to act on.

        Collective: yes
        """
        if self._world.side_group is None:
            self.stop = self.stop or self._signals.received
            self.save_due = self.save_due or self._due()
            self.save_broken = self.broken()
            return
        self._ticks_left -= 1
        if self._ticks_left == 0:
            self._agree()

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

    def _agree(self) -> None:
        self._tick_s = (time.monotonic() - self._agreed_at) / self._ticks_between
        if self._pending is not None:
            self._take()
        self._launch()
        if self._interval == 0:
            self._take()
        self._ticks_left = self._ticks_between = max(1, self._interval)
        self._agreed_at = time.monotonic()

    def _launch(self) -> None:
        self._message[0] = self._signals.received
        self._message[1] = self._due() and not self.save_due
        self._message[2] = 1 + self._wanted_interval() if self._world.is_main else 0
        self._message[3] = self.broken()
        self._pending_is_stale = False
        self._pending = dist.all_reduce(self._message, dist.ReduceOp.MAX, group=self._world.side_group, async_op=True)

    def _take(self) -> None:
        assert self._pending is not None
        self._pending.wait()
        self._pending = None
        stop, save, interval, broken = self._message.tolist()
        self.stop = self.stop or stop
        self.save_due = self.save_due or (bool(save) and not self._pending_is_stale)
        self.save_broken = self.save_broken or bool(broken)
        self._interval = interval - 1

    def _wanted_interval(self) -> int:
        if self._tick_s > _LONG_TICK_S:
            return 0
        return max(1, min(_MOST_TICKS, int(_EVERY_S / max(self._tick_s, 1e-9))))

    def _due(self) -> bool:
        if self.save_every_s is None or not self._world.is_main:
            return False
        return time.monotonic() - self._last_save >= self.save_every_s and not self.busy()
