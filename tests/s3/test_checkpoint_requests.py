"""What a save costs in requests, as docs/storage.md lists it: so many for each rank, however many tensors there are."""

import threading
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from faulty_proxy import FaultyProxy

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import open_storage
from torchrelay.contract.training import Checkpoint


@dataclass
class Peer:
    rank: int
    world_size: int
    store: Any


def requests(proxy: FaultyProxy, url: str, world_size: int, tensors: int) -> Counter[str]:
    """Of a save that is not the first of its run and deletes nothing, by kind of request."""
    options = {"endpoint_url": proxy.url, "part_bytes": 5 * 2**20}
    storage, store = open_storage(f"{url}/{world_size}-{tensors}", options), dist.HashStore()
    state = {"model": {f"t{n}": torch.zeros(6 * 2**20 // 4 * world_size // tensors) for n in range(tensors)}}
    errors, together = [], threading.Barrier(world_size, proxy.requests.clear, timeout=60)

    def one(rank: int) -> None:
        try:
            peer = Peer(rank, world_size, dist.PrefixStore("gang", store))
            own = CheckpointManager(storage, Writer(1), peer, Checkpoint(keep_last=9), {}, 60.0)
            own.save(1, state, {"rank": rank}, {})
            together.wait()
            own.save(2, state, {"rank": rank}, {})
        except BaseException as error:  # noqa: BLE001  # shown below
            errors.append(repr(error))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert errors == []
    return Counter(kind(line) for line in proxy.requests)


def kind(line: str) -> str:
    """A request's method, and of the parts of an upload which one it is."""
    method, _, path = line.partition(" ")
    if "uploads" in path.partition("?")[2]:
        return "POST begin"
    if "partNumber" in path:
        return "PUT part"
    if "uploadId" in path:
        return "POST complete"
    return method


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_save_takes_as_many_requests_for_any_number_of_tensors(
    s3_environment: str, s3_url: str, world_size: int
) -> None:
    with FaultyProxy(s3_environment) as proxy:
        few, many = (requests(proxy, s3_url, world_size, tensors) for tensors in (4, 100))
    assert few == many
    parts = 2  # of a rank's share
    assert few == {
        "POST begin": world_size,
        "PUT part": parts * world_size,
        "POST complete": world_size,
        "PUT": world_size + 2,  # each rank's own state, the shared state, the manifest
        "GET": world_size + 4,  # fencing: each rank, before and after the commit; retention: a listing, a manifest
        "HEAD": 1,
    }
