"""One side's saves and restores: prints medians of what training sees. `saving.py SIDE MEGABYTES URL SAVES RESTORES`.

Sides: torchrelay, torch_save (rank 0 saves and syncs), dcp (torch.distributed.checkpoint.save), dcp_async (async_save).
Saves are timed until the commit, without the deletion of old checkpoints, which is done by all sides between saves.
Restores are timed until the state is back in the tensors that training uses; without any, nothing is printed of them.
"""

import io
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import fsspec
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import on_object_storage, open_storage
from torchrelay.contract.training import Checkpoint
from torchrelay.world import Wanted, World, join

try:
    from torch.distributed.checkpoint.fsspec_filesystem import FsspecReader, FsspecWriter
except ModuleNotFoundError:  # before torch 2.15
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

SIDE, MEGABYTES, URL = sys.argv[1], int(sys.argv[2]), sys.argv[3]
SAVES, RESTORES = int(sys.argv[4]), int(sys.argv[5])
TENSORS = 60
State = dict[str, Any]
Durable = Callable[[], float | None]  # waits; seconds from the save's start where waiting includes more than that


class Side(Protocol):
    """One way of saving. `save` returns when training may go on."""

    def save(self, step: int, state: State) -> Durable: ...

    def load(self, step: int, state: State) -> None: ...

    def drop(self, step: int) -> None: ...


class Torchrelay:
    """The manager that the trainer uses."""

    def __init__(self, world: World, state: State) -> None:
        self.own = CheckpointManager(open_storage(URL), Writer(1), world, Checkpoint(keep_last=1), {})
        self.own.prepare(state, {})

    def save(self, step: int, state: State) -> Durable:
        pending = self.own.begin(step, state, {}, {})
        return lambda: pending.result().seconds

    def load(self, step: int, state: State) -> None:
        found = self.own.restore(into=state)
        assert found is not None
        assert found.step == step
        put(found.shared, state)

    def drop(self, step: int) -> None:
        """Its own retention has done it."""


class TorchSave:
    """One file by rank 0, read by all."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.fs, self.root = fsspec.core.url_to_fs(URL)

    def save(self, step: int, state: State) -> Durable:
        if self.world.is_main:
            with self.fs.open(f"{self.root}/{step}.pt", "wb") as file:
                torch.save(state, file)
                if FAR:
                    file.flush()
                else:
                    os.fsync(file.fileno())
        dist.barrier()
        return lambda: None

    def load(self, step: int, state: State) -> None:
        file = io.BytesIO(self.fs.cat_file(f"{self.root}/{step}.pt")) if FAR else f"{self.root}/{step}.pt"
        put(torch.load(file, weights_only=True), state)

    def drop(self, step: int) -> None:
        if self.world.is_main:
            self.fs.rm(f"{self.root}/{step}.pt")


class Dcp:
    """torch.distributed.checkpoint; with fsspec on object storage."""

    def __init__(self, world: World, asynchronous: bool) -> None:
        self.world, self.asynchronous = world, asynchronous
        self.group = dist.new_group(backend="gloo")

    def save(self, step: int, state: State) -> Durable:
        kind = FsspecWriter if FAR else dcp.FileSystemWriter
        writer = kind(f"{URL}/dcp-{step}", sync_files=not FAR)
        if self.asynchronous:
            future = dcp.async_save(state, storage_writer=writer, process_group=self.group)
            return lambda: future.result() and None
        dcp.save(state, storage_writer=writer, process_group=self.group)
        return lambda: None

    def load(self, step: int, state: State) -> None:
        kind = FsspecReader if FAR else dcp.FileSystemReader
        dcp.load(state, storage_reader=kind(f"{URL}/dcp-{step}"), process_group=self.group)

    def drop(self, step: int) -> None:
        if not self.world.is_main:
            return
        if FAR:
            fs, root = fsspec.core.url_to_fs(URL)
            fs.rm(f"{root}/dcp-{step}", recursive=True)
        else:
            shutil.rmtree(Path(URL) / f"dcp-{step}")


FAR = on_object_storage(open_storage(URL))


def state_of(seed: int) -> State:
    """As many bytes as asked for, in tensors of the usual sizes: weights and two moments of each."""
    torch.manual_seed(seed)
    elements = MEGABYTES * 1_000_000 // 4 // TENSORS
    return {"model": {f"t{n:02d}": torch.rand(elements) for n in range(TENSORS)}}


def put(found: State, state: State) -> None:
    """Copy what was read to where training has it."""
    for name, tensor in state["model"].items():
        tensor.copy_(found["model"][name])


def main() -> None:
    """Entry point."""
    world = join(Wanted("gloo", 0))
    if not FAR:
        Path(URL).mkdir(parents=True, exist_ok=True)
    state = state_of(0)
    sides: dict[str, Callable[[], Side]] = {
        "torchrelay": lambda: Torchrelay(world, state),
        "torch_save": lambda: TorchSave(world),
        "dcp": lambda: Dcp(world, False),
        "dcp_async": lambda: Dcp(world, True),
    }
    before = start_of_peak()
    side = sides[SIDE]()
    stalls, durables = saves(side, state)
    save_peak = peak_mb() - before
    if world.is_main:
        print("stall_s", statistics.median(stalls[1:]))
        print("durable_s", statistics.median(durables[1:]))
        print("save_memory", save_peak / MEGABYTES)
    if RESTORES:
        changed = state_of(1)
        before = start_of_peak()
        restores = restore(side, state, changed)
        if world.is_main:
            print("restore_s", statistics.median(restores))
            print("restore_memory", (peak_mb() - before) / MEGABYTES)
    dist.barrier()
    dist.destroy_process_group()


def saves(side: Side, state: State) -> tuple[list[float], list[float]]:
    """Seconds that training stood still, and seconds until durable, of each save."""
    stalls, durables = [], []
    for step in range(1, SAVES + 1):
        os.sync()  # no side writes what another one left behind
        dist.barrier()
        began = time.perf_counter()
        durable = side.save(step, state)
        stalls.append(time.perf_counter() - began)
        seconds = durable()
        durables.append(seconds or time.perf_counter() - began)
        dist.barrier()
        if step > 1:
            side.drop(step - 1)
    return stalls, durables


def restore(side: Side, state: State, changed: State) -> list[float]:
    """Seconds until the newest state is back, and all of it."""
    seconds = []
    for _ in range(RESTORES):
        put({"model": {name: torch.zeros(()) for name in changed["model"]}}, changed)
        dist.barrier()
        began = time.perf_counter()
        side.load(SAVES, changed)
        dist.barrier()
        seconds.append(time.perf_counter() - began)
        for name, tensor in state["model"].items():
            assert torch.equal(tensor, changed["model"][name]), name
    return seconds


def start_of_peak() -> float:
    """Forget the peak so far; the memory that this process has now, in 10^6 bytes."""
    Path("/proc/self/clear_refs").write_text("5")
    return peak_mb()


def peak_mb() -> float:
    """The most memory that this process has had since `start_of_peak`, in 10^6 bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024 / 1e6


main()
