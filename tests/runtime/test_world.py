"""Devices, and talk between ranks; threads stand in for ranks, since a store is all they share."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch._C._distributed_c10d import HashStore

from torchrelay.contract.errors import ConfigError, PeerLostError, StorageError, SupersededError
from torchrelay.world import Wanted, World, choose_device


@pytest.fixture
def two_worlds() -> list[World]:
    store = HashStore()
    return [World(rank=rank, world_size=2, store=store) for rank in range(2)]


def together(worlds, call):
    """What `call` returned or raised on each rank."""

    def one(world):
        try:
            return call(world)
        except Exception as error:  # noqa: BLE001 - it is the result
            return error

    with ThreadPoolExecutor(len(worlds)) as pool:
        return list(pool.map(one, worlds))


def test_all_hear_what_rank_0_says(two_worlds):
    asked = []
    said = together(two_worlds, lambda world: world.from_main(lambda: asked.append(world.rank) or {"step": 3}))
    assert said == [{"step": 3}, {"step": 3}]
    assert asked == [0]
    assert together(two_worlds, lambda world: world.broadcast_json([world.rank])) == [[0], [0]]


@pytest.mark.parametrize("error", [StorageError("full"), SupersededError("newer")])
def test_rank_0s_error_is_everybodys(two_worlds, error):
    def fail():
        raise error

    heard = together(two_worlds, lambda world: world.from_main(fail))
    assert [type(one) for one in heard] == [type(error)] * 2
    assert [str(one) for one in heard] == [str(error)] * 2


def test_alone_everything_is_at_once():
    world = World()
    assert world.from_main(lambda: 5) == 5
    assert world.sum([1.0, 2.0]).tolist() == [1.0, 2.0]
    assert world.sum(torch.ones(2, dtype=torch.float16)).dtype == torch.float64
    world.barrier(0.1)


def test_a_barrier_waits_for_the_last(two_worlds):
    came = []

    def arrive(world):
        if world.rank == 1:
            threading.Event().wait(0.3)
            came.append("late")
        world.barrier(10)
        return list(came)

    assert together(two_worlds, arrive) == [["late"], ["late"]]


def test_a_barrier_has_a_time_limit(two_worlds):
    with pytest.raises(PeerLostError, match="rank 0 waited 0 s for the other ranks"):
        two_worlds[0].barrier(0.2)


def test_a_barrier_ends_when_a_rank_says_that_it_fails(two_worlds):
    two_worlds[1].tell_failing()
    with pytest.raises(PeerLostError, match="rank 1 failed while rank 0 waited"):
        two_worlds[0].barrier(60)


def test_no_gpus_wanted_is_the_cpu():
    assert choose_device(Wanted(gpus=0), 0) == torch.device("cpu")


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert choose_device(Wanted(gpus=2), 1) == torch.device("cuda", 1)
    assert choose_device(Wanted(), 1) == torch.device("cuda", 1)
    assert choose_device(Wanted(gpus=0), 1) == torch.device("cpu")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert choose_device(Wanted(), 1) == torch.device("cpu")
    with pytest.raises(ConfigError, match="torch sees 2 GPUs here"):
        choose_device(Wanted(gpus=3), 2)


def test_nccl_needs_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for gpus in (None, 0, 2):
        with pytest.raises(ConfigError, match="process_group: nccl needs GPUs"):
            choose_device(Wanted("nccl", gpus), 0)
