"""The built-in trainer and the loop written by hand, a block of steps each in turn, in the same two ranks.

A job whose data set is this `Synthetic` gets it: between two blocks of the trainer's steps the other loop makes as many
of its own. What the machine does meanwhile meets both alike, so that a difference of a percent can be seen. Rank 0
prints the seconds per step of every pair of blocks.
"""

import time
from collections.abc import Iterator

import bench_data
import ddp_loop

from torchrelay.run import Run

BLOCK_STEPS = 50
WARM_UP_BLOCKS = 3

_trainers_steps = Run.steps


class Synthetic(bench_data.Synthetic):
    """The data of both."""


def steps(run: Run, total: int | None = None) -> Iterator[int]:
    """The trainer's steps, with the other loop's in between."""
    by_hand: Iterator[int] | None = None
    began = 0.0
    for step in _trainers_steps(run, total):
        yield step
        if (step + 1) % BLOCK_STEPS:
            continue
        trainer_s = time.perf_counter() - began
        by_hand = by_hand or ddp_loop.steps()
        began = time.perf_counter()
        for _ in range(BLOCK_STEPS):
            next(by_hand)
        by_hand_s = time.perf_counter() - began
        if run.is_main and step > BLOCK_STEPS * WARM_UP_BLOCKS:
            print(f"pair {trainer_s / BLOCK_STEPS:.6f} {by_hand_s / BLOCK_STEPS:.6f}")
        began = time.perf_counter()


Run.steps = steps  # type: ignore[method-assign]
