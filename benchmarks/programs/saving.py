"""One side's saves and restores, two ranks: prints medians of what training sees. `saving.py SIDE MEGABYTES FOLDER`.

Sides: torchrelay, torch_save (rank 0 saves and syncs), dcp (torch.distributed.checkpoint.save), dcp_async (async_save).
"""

import os
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint
from torchrelay.world import Wanted, World, join

SIDE, MEGABYTES, FOLDER = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
SAVES, TENSORS = 4, 60
State = dict[str, Any]
Durable = Callable[[], object]


def state_of(seed: int) -> State:
    """As many bytes as asked for, in tensors of the usual sizes: weights and two moments of each."""
    torch.manual_seed(seed)
    elements = MEGABYTES * 1_000_000 // 4 // TENSORS
    tensors = {f"t{n:02d}": torch.rand(elements) for n in range(TENSORS)}
    return {"model": tensors}


def torchrelay_side(world: World, state: State) -> tuple[Callable[[int, State], Durable], Callable[[int], State]]:
    own = CheckpointManager(LocalStorage(FOLDER), Writer(1), world, Checkpoint(keep_last=1), {})
    own.prepare(state, {})

    def save(step: int, state: State) -> Durable:
        return own.begin(step, state, {}, {}).result

    def load(_: int) -> State:
        found = own.restore()
        assert found is not None
        return found.shared

    return save, load


def torch_save_side(world: World) -> tuple[Callable[[int, State], Durable], Callable[[int], State]]:
    def save(step: int, state: State) -> Durable:
        if world.is_main:
            with FOLDER.joinpath(f"{step}.pt").open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            FOLDER.joinpath(f"{step - 1}.pt").unlink(missing_ok=True)
        dist.barrier()
        return lambda: None

    return save, lambda step: torch.load(FOLDER / f"{step}.pt", weights_only=True)


def dcp_side(asynchronous: bool) -> tuple[Callable[[int, State], Durable], Callable[[int], State]]:
    group = dist.new_group(backend="gloo")

    def save(step: int, state: State) -> Durable:
        writer = dcp.FileSystemWriter(FOLDER / f"dcp-{step}", sync_files=True)
        shutil.rmtree(FOLDER / f"dcp-{step - 2}", ignore_errors=True)
        if asynchronous:
            return dcp.async_save(state, storage_writer=writer, process_group=group).result
        dcp.save(state, storage_writer=writer, process_group=group)
        return lambda: None

    def load(step: int) -> State:
        state = state_of(1)
        began = time.perf_counter()
        dcp.load(state, storage_reader=dcp.FileSystemReader(FOLDER / f"dcp-{step}"), process_group=group)
        state["_seconds"] = time.perf_counter() - began
        return state

    return save, load


def main() -> None:
    """Entry point."""
    world = join(Wanted("gloo", 0))
    FOLDER.mkdir(parents=True, exist_ok=True)
    state = state_of(0)
    before = peak_mb()
    sides = {
        "torchrelay": lambda: torchrelay_side(world, state),
        "torch_save": lambda: torch_save_side(world),
        "dcp": lambda: dcp_side(False),
        "dcp_async": lambda: dcp_side(True),
    }
    save, load = sides[SIDE]()
    stalls, durables = [], []
    for step in range(1, SAVES + 1):
        dist.barrier()
        began = time.perf_counter()
        durable = save(step, state)
        stalls.append(time.perf_counter() - began)
        durable()
        durables.append(time.perf_counter() - began)
    after = peak_mb()
    restores = []
    for _ in range(3):
        dist.barrier()
        began = time.perf_counter()
        found = load(SAVES)
        restores.append(found.pop("_seconds", time.perf_counter() - began))
        assert torch.equal(found["model"]["t01"], state["model"]["t01"])
        del found
    if world.is_main:
        print("stall_s", statistics.median(stalls[1:]))
        print("durable_s", statistics.median(durables[1:]))
        print("restore_s", statistics.median(restores))
        print("more_memory_mb", after - before)
    dist.barrier()
    dist.destroy_process_group()


def peak_mb() -> float:
    """The most memory that this process has had, in 10^6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


main()
