"""Steps while a save is under way, against the same steps without one. `beside.py MEGABYTES URL CYCLES`.

Prints `slowing`, and `writing`: the same beside another process that does nothing but write and sync as many bytes, or
send them to S3 by boto3, which is what the machine itself asks for that. A step computes on one thread for about 20 ms
and, with several ranks, sums 1 MB over them. The copy between two steps, for which training stands still, is not
counted here.
"""

import select
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
import torch.distributed as dist

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import open_storage
from torchrelay.contract.training import Checkpoint
from torchrelay.world import Wanted, World, join

MEGABYTES, URL, CYCLES = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
TENSORS, STEP_S = 60, 0.02
Done = Callable[[], bool]

# Writes its part of the bytes for each line that it reads, at the priority that a save has.
WRITER = """
import os, sys
data = os.urandom(1_000_000) * int(sys.argv[1])
os.nice(10)
for line in sys.stdin:
    with open(sys.argv[2] + ".new", "wb", buffering=0) as file:
        for at in range(0, len(data), 16 << 20):
            file.write(memoryview(data)[at : at + (16 << 20)])
        os.fsync(file.fileno())
    os.replace(sys.argv[2] + ".new", sys.argv[2])
    print(flush=True)
"""


SENDER = """
import boto3, io, os, sys
data = os.urandom(1_000_000) * int(sys.argv[1])
bucket, _, key = sys.argv[2].removeprefix("s3://").partition("/")
os.nice(10)
s3 = boto3.client("s3")
for line in sys.stdin:
    s3.upload_fileobj(io.BytesIO(data), bucket, key)
    print(flush=True)
"""


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


class PlainWriter:
    """The other process, which writes this rank's part of the bytes."""

    def __init__(self, megabytes: int, url: str) -> None:
        program = SENDER if url.startswith("s3://") else WRITER
        argv = [sys.executable, "-c", program, str(megabytes), url]
        self._process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._done = True

    def begin(self) -> Done:
        self._done = False
        self._requests.write(b"\n")
        return self._is_done

    def end(self) -> None:
        self._requests.close()
        self._process.wait()

    def _is_done(self) -> bool:
        if not self._done and select.select([self._answers], [], [], 0)[0]:
            self._answers.read(1)
            self._done = True
        return self._done


def main() -> None:
    """Entry point."""
    world = join(Wanted("gloo", 0))
    elements = MEGABYTES * 1_000_000 // 4 // TENSORS
    state = {"model": {f"t{n:02d}": torch.rand(elements) for n in range(TENSORS)}}
    own = CheckpointManager(open_storage(URL), Writer(1), world, Checkpoint(keep_last=1), {})
    own.save(0, state, {}, {})
    steps = Steps(world)
    writer = PlainWriter(MEGABYTES // world.world_size, f"{URL}/plain-{world.rank}")
    sides = {"slowing": lambda number: save(own, number, state), "writing": lambda _number: writer.begin()}
    cycle(steps, writer.begin)  # makes its bytes
    found: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(1, CYCLES + 1):
        for side, begin in sides.items():
            found[side].append(cycle(steps, partial(begin, number)))
    writer.end()
    if world.rank == 0:
        for side, times in found.items():
            print(side, statistics.median(times))
    if world.world_size > 1:
        dist.barrier()
        dist.destroy_process_group()


def save(own: CheckpointManager, number: int, state: dict[str, dict[str, torch.Tensor]]) -> Done:
    """Begin a save. Returns what tells whether it is done."""
    pending = own.begin(number, state, {}, {})
    return lambda: pending.done


def cycle(steps: Steps, begin: Callable[[], Done]) -> float:
    """Mean step with something under way, over the mean of as many without."""
    done = begin()
    beside, last = [], False
    while not last:
        seconds, last = steps.one(done())
        beside.append(seconds)
    alone = [steps.one(True)[0] for _ in beside]
    return statistics.mean(beside) / statistics.mean(alone)


main()
