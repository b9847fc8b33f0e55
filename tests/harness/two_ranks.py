"""A gang of two ranks in one process, for programs that kill it: a kill ends both at the same moment."""

import os
import threading
from collections.abc import Callable
from typing import Any

import torch.distributed as dist

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract.layout import Writer
from torchrelay.contract.training import Checkpoint

RANKS = 2


class Peer:
    def __init__(self, rank: int, store: Any) -> None:
        self.rank, self.world_size, self.store = rank, RANKS, store


def gang(storage: Any, writer: Writer, work: Callable[[CheckpointManager, int], object], keep_last: int = 2) -> None:
    """Both ranks, as threads. An error of either ends the process with 1."""
    store, errors = dist.HashStore(), []

    def one(rank: int) -> None:
        try:
            peer = Peer(rank, dist.PrefixStore("gang", store))
            work(CheckpointManager(storage, writer, peer, Checkpoint(keep_last=keep_last), {}, 60.0), rank)
        except BaseException as error:  # noqa: BLE001  # shown below
            errors.append(repr(error))

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(RANKS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        os.write(2, "\n".join(errors).encode())
        os._exit(1)
