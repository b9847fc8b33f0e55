"""How often to save when the spec says `every: auto`: as often as a bound on the overhead allows.

The cost of a save is what training loses by it: the time it stands still, and what the steps beside it take longer. As
in CheckFreq (Mohan et al., FAST 2021) the interval is that cost divided by the bound. Where the mean time between
failures is given, it is the one that loses least in all, sqrt(2 * cost * mean time) (Young 1974, Daly 2006).
"""

import math
import statistics
from collections import deque

from torchrelay.contract.training import Checkpoint
from torchrelay.saver import Saving

_FIRST_S = 10.0  # until the first save, which is the first measurement
_SHORTEST_S = 1.0
_LONGEST_S = 3600.0  # nobody wants to lose more, however dear a save is
_SAVES = 5  # measurements that count
_STEPS = 100  # of each kind


class Pace:
    """Measures on rank 0 what saves cost. Times are in seconds."""

    def __init__(self, policy: Checkpoint) -> None:
        self._bound = policy.max_overhead
        self._mean_time_s = policy.mean_time_between_failures
        self._costs: deque[float] = deque(maxlen=_SAVES)
        self._durable: deque[float] = deque(maxlen=_SAVES)
        self._steps: dict[bool, deque[float]] = {False: deque(maxlen=_STEPS), True: deque(maxlen=_STEPS)}
        self._since: tuple[float, bool] | None = None

    @property
    def cost_s(self) -> float:
        """What the last save cost."""
        return self._costs[-1] if self._costs else 0.0

    @property
    def interval_s(self) -> float:
        """From the start of a save to the start of the next."""
        if not self._costs:
            return _FIRST_S
        cost, mean_time_s = statistics.fmean(self._costs), self._mean_time_s
        wanted = cost / self._bound if mean_time_s is None else math.sqrt(2 * cost * mean_time_s)
        # Faster than a save can be written would be back-pressure.
        return max(_SHORTEST_S, 2 * max(self._durable), min(wanted, _LONGEST_S))

    def tick(self, now: float, *, saving: bool) -> None:
        """A step is done; `saving`: whether a save is under way. Steps in which that changes count as neither."""
        if self._since is not None and self._since[1] == saving:
            self._steps[saving].append(now - self._since[0])
        self._since = now, saving

    def skip(self) -> None:
        """What goes on now is no part of a step."""
        self._since = None

    def saved(self, saving: Saving) -> None:
        """A save is committed."""
        beside_s = max(0.0, saving.seconds - (saving.stall_s - saving.waited_s))
        self._costs.append(saving.stall_s - saving.waited_s + beside_s * self._slowing())
        self._durable.append(saving.seconds)

    def _slowing(self) -> float:
        """By which part of itself a step takes longer beside a save."""
        if not self._steps[False] or not self._steps[True]:
            return 0.0
        quiet, beside = (statistics.median(self._steps[saving]) for saving in (False, True))
        return min(1.0, max(0.0, (beside - quiet) / max(beside, 1e-9)))
