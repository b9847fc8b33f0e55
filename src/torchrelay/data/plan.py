"""Which positions of which epoch make a step, and which of them are this rank's.

The global batch is the unit: step k of an epoch takes positions [k*B, (k+1)*B), whatever the world size. The last batch
of an epoch is short, never padded. Rank r of W takes the contiguous part [n*r//W, n*(r+1)//W) of a batch of n.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple


class Micro(NamedTuple):
    """The samples of one forward on this rank: positions [start, stop) of their epoch, and what their mean loss counts.

    Gradients are averaged over ranks, so a mean over m of a global batch of n counts m*W/n. A rank whose part of the
    batch is empty computes the batch's first sample with weight 0: it must take part in the all-reduce.
    """

    epoch: int
    start: int
    stop: int
    weight: float


@dataclass(frozen=True)
class Plan:
    """The division of `n` samples per epoch into global batches, ranks and micro-batches."""

    n: int
    global_batch: int
    world_size: int = 1
    rank: int = 0
    micro_batch: int | None = None  # most samples of one forward; None takes a rank's whole part at once

    def __post_init__(self) -> None:
        if self.n < 1 or self.global_batch < 1 or (self.micro_batch is not None and self.micro_batch < 1):
            raise ValueError(f"n, global_batch and micro_batch must be at least 1: {self}")
        if not 0 <= self.rank < self.world_size:
            raise ValueError(f"rank {self.rank} of {self.world_size} ranks")

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.n // self.global_batch)

    @property
    def largest_micro_batch(self) -> int:
        """Most samples of one forward on any rank."""
        share = -(-min(self.global_batch, self.n) // self.world_size)
        return min(share, self.micro_batch or share)

    def total_steps(self, epochs: int | None, steps: int | None) -> int:
        """Steps of the whole run; `steps` wins over `epochs`."""
        return steps if steps is not None else (epochs or 0) * self.steps_per_epoch

    def epoch(self, step: int) -> int:
        """The epoch, from 0, that a step, from 0, belongs to."""
        return step // self.steps_per_epoch

    def ends_epoch(self, steps_done: int) -> bool:
        """Whether an epoch is over when so many steps are done."""
        return steps_done > 0 and steps_done % self.steps_per_epoch == 0

    def batch(self, step: int) -> tuple[int, int]:
        """First position of a step's global batch within its epoch, and the batch's size."""
        start = step % self.steps_per_epoch * self.global_batch
        return start, min(self.global_batch, self.n - start)

    def share(self, step: int) -> tuple[int, int]:
        """Positions of this rank, [start, stop) of a step's global batch; may be empty."""
        start, size = self.batch(step)
        first, beyond = part_of(size, self.rank, self.world_size)
        return start + first, start + beyond

    def micro_batches(self, step: int) -> list[Micro]:
        """The forwards of this rank in a step, at least one."""
        epoch = self.epoch(step)
        start, stop = self.share(step)
        first, size = self.batch(step)
        if start == stop:
            return [Micro(epoch, first, first + 1, 0.0)]
        most = self.micro_batch or stop - start
        if stop - start <= most:
            return [Micro(epoch, start, stop, (stop - start) * self.world_size / size)]
        cuts = [*range(start, stop, most), stop]
        return [Micro(epoch, a, b, (b - a) * self.world_size / size) for a, b in pairwise(cuts)]

    def samples_done(self, steps_done: int) -> int:
        """Samples that so many steps have used, over all ranks."""
        epochs, rest = divmod(steps_done, self.steps_per_epoch)
        return epochs * self.n + min(self.n, rest * self.global_batch)


def part_of(n: int, rank: int, world_size: int) -> tuple[int, int]:
    """The contiguous part [start, stop) of 0..n-1 that falls to a rank; parts differ by one at most."""
    return n * rank // world_size, n * (rank + 1) // world_size
