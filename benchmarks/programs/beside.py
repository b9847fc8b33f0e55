"""Steps while a save is under way, against the same steps without one: prints `slowing`. `beside.py MEGABYTES FOLDER`.

A step computes on one thread for about 20 ms and, with several ranks, sums 1 MB over them. The copy between two steps,
for which training stands still, is not counted here.
"""

import statistics
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint
from torchrelay.world import Wanted, World, join

MEGABYTES, FOLDER = int(sys.argv[1]), sys.argv[2]
CYCLES, TENSORS, STEP_S = 25, 60, 0.02


class Steps:
    """A loop of equal steps on all ranks."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.a, self.b = torch.rand(384, 384), torch.rand(384, 384)
        self.gradients = torch.zeros(250_000)
        self.multiplications = 1
        seconds = statistics.median(self._computing() for _ in range(200))
        self.multiplications = max(1, round(STEP_S / seconds))

    def one(self, last: bool) -> tuple[float, bool]:
        """Seconds of a step, and whether it is the last one for all ranks."""
        began = time.perf_counter()
        self._computing()
        self.gradients[0] = float(last)
        if self.world.world_size > 1:
            dist.all_reduce(self.gradients, dist.ReduceOp.MIN)
        return time.perf_counter() - began, bool(self.gradients[0])

    def _computing(self) -> float:
        began = time.perf_counter()
        for _ in range(self.multiplications):
            torch.mm(self.a, self.b)
        return time.perf_counter() - began


def main() -> None:
    """Entry point."""
    world = join(Wanted("gloo", 0))
    elements = MEGABYTES * 1_000_000 // 4 // TENSORS
    state = {"model": {f"t{n:02d}": torch.rand(elements) for n in range(TENSORS)}}
    own = CheckpointManager(LocalStorage(Path(FOLDER)), Writer(1), world, Checkpoint(keep_last=1), {})
    own.save(0, state, {}, {})
    steps = Steps(world)
    ratios = [cycle(steps, own, number, state) for number in range(1, CYCLES + 1)]
    if world.rank == 0:
        print("slowing", statistics.median(ratios))
    if world.world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


def cycle(steps: Steps, own: CheckpointManager, number: int, state: dict[str, dict[str, torch.Tensor]]) -> float:
    """Mean step with a save under way, over the mean of as many without."""
    pending = own.begin(number, state, {}, {})
    beside, last = [], False
    while not last:
        seconds, last = steps.one(pending.done)
        beside.append(seconds)
    alone = [steps.one(True)[0] for _ in beside]
    return statistics.mean(beside) / statistics.mean(alone)


main()
