"""Learning-rate schedules beside torch's own."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from torchrelay.contract.errors import ConfigError


def warmup_cosine(optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, min_lr_ratio: float = 0.0) -> LambdaLR:
    """A linear rise over `warmup_steps`, then half a cosine down to `min_lr_ratio` of the optimizer's rate."""
    if not 0 <= warmup_steps < total_steps:
        raise ConfigError(f"warmup_steps {warmup_steps}: expected 0 to {total_steps - 1}, fewer than total_steps")
    if not 0 <= min_lr_ratio <= 1:
        raise ConfigError(f"min_lr_ratio {min_lr_ratio}: expected 0 to 1")

    def ratio(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / (warmup_steps + 1)
        progress = min(1.0, (step - warmup_steps) / (total_steps - warmup_steps))
        return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, ratio)
