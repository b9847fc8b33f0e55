"""What a run's events say about how far it is."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from torchrelay.contract.events import Event
from torchrelay.contract.settings import Json

Metrics = dict[str, float]


@dataclass
class Best:
    """The best value of one metric, and the step it was reached at."""

    metric: str
    value: float
    step: int


@dataclass
class Progress:
    """The state that events add up to. Feed them in the order of their writers."""

    step: int | None = None
    total_steps: int | None = None
    world_size: int | None = None
    started_at: float | None = None  # when the newest gang began to train
    first_step: int = 0  # where the newest gang began
    gangs: int = 0
    metrics: Metrics = field(default_factory=dict)
    evaluations: dict[int, Metrics] = field(default_factory=dict)  # by step
    checkpoint_step: int | None = None
    checkpoint_error: str = ""
    stopping: bool = False
    _recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=20))

    def take_all(self, found: Iterable[Event]) -> "Progress":
        """Add events. Returns itself."""
        for event in found:
            self.take(event)
        return self

    def take(self, event: Event) -> None:
        """Add one event; kinds that are not known are passed over."""
        step, total = _whole(event.get("step")), _whole(event.get("total_steps"))
        if step is not None:
            self.step = step
        if total is not None:
            self.total_steps = total
        kind = event.get("event")
        if kind == "started":
            self._start(event, step or 0)
        elif kind == "step" and step is not None:
            self.metrics = _metrics(event)
            self._recent.append((_seconds(event), step))
        elif kind == "evaluation" and step is not None:
            self.evaluations[step] = self.evaluations.get(step, {}) | _metrics(event)
        elif kind == "checkpoint":
            self.checkpoint_step, self.checkpoint_error = step, ""
        elif kind == "checkpoint_failed":
            self.checkpoint_error = str(event.get("error", ""))
        elif kind == "stopping":
            self.stopping = True

    def _start(self, event: Event, step: int) -> None:
        """A new gang: what an older one did after the checkpoint that this one starts from is done again."""
        self.gangs += 1
        self.first_step, self.started_at = step, _seconds(event)
        self.world_size = _whole(event.get("world_size")) or self.world_size
        self.evaluations = {at: metrics for at, metrics in self.evaluations.items() if at <= step}
        self.stopping = False
        self._recent.clear()

    @property
    def evaluation(self) -> Metrics:
        """The newest validation metrics; empty before the first."""
        return self.evaluations[max(self.evaluations)] if self.evaluations else {}

    @property
    def done(self) -> float:
        """Share of the steps that are done, 0 to 1."""
        return min(1.0, (self.step or 0) / self.total_steps) if self.total_steps else 0.0

    @property
    def seconds_per_step(self) -> float | None:
        """Time of a step, over the last ones; None before two are known."""
        if len(self._recent) < 2:
            return None
        (first_t, first_step), (last_t, last_step) = self._recent[0], self._recent[-1]
        return max(0.0, last_t - first_t) / (last_step - first_step) if last_step > first_step else None

    @property
    def seconds_left(self) -> float | None:
        """Time to the end at the pace of the last steps."""
        pace = self.seconds_per_step
        if pace is None or self.total_steps is None or self.step is None:
            return None
        return (self.total_steps - self.step) * pace

    def best(self, metric: str, mode: str) -> Best | None:
        """The best value of a validation metric so far; of equals, the first."""
        found = [(metrics[metric], step) for step, metrics in sorted(self.evaluations.items()) if metric in metrics]
        if not found:
            return None
        value, step = (max if mode == "max" else min)(found, key=lambda one: one[0])
        return Best(metric, value, step)


def _metrics(event: Event) -> Metrics:
    found = event.get("metrics")
    if not isinstance(found, dict):
        return {}
    return {name: float(value) for name, value in found.items() if isinstance(value, (int, float))}


def _whole(value: Json) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _seconds(event: Event) -> float:
    at = event.get("t")
    return float(at) if isinstance(at, (int, float)) else 0.0
