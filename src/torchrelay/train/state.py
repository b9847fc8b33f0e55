"""What the trainer must remember beside model, optimizer, schedule and the run's own progress."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from torchrelay.contract.training import EarlyStopping


@dataclass
class TrainState:
    """Early stopping: the best value of its metric, evaluations since, and whether training is over for that."""

    best: float | None = None
    without_improvement: int = 0
    stopped_early: bool = False

    def judge(self, rule: EarlyStopping, value: float) -> None:
        """Take in the metric of one more evaluation."""
        better = self.best is None or (value < self.best if rule.mode == "min" else value > self.best)
        if better:
            self.best, self.without_improvement = value, 0
        else:
            self.without_improvement += 1
        self.stopped_early = self.without_improvement >= rule.patience

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for field in dataclasses.fields(self):
            setattr(self, field.name, state[field.name])
