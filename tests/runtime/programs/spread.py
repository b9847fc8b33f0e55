"""One of several real ranks that saves, restores over a gloo group, and counts what it reads."""

import json
import os
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch
import torch.distributed as dist

from torchrelay.checkpoint import CheckpointManager, spreading
from torchrelay.contract.errors import CheckpointError
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint

lent: list[Any] = []
ROOT, RANK, SIZE, PORT = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])


class Counting(LocalStorage):
    """Storage that notes which files were read."""

    files: ClassVar[list[str]] = []

    def read(self, path: str) -> bytes:
        Counting.files.append(path)
        return super().read(path)

    def open(self, path: str) -> BinaryIO:
        Counting.files.append(path)
        return super().open(path)


@dataclass
class Peer:
    rank: int
    world_size: int
    store: Any
    side_group: Any


def shared() -> dict[str, Any]:
    small = {f"s{n}": torch.full((n % 7, 3), n, dtype=torch.bfloat16) for n in range(50)}
    return {
        "model": {
            "big": torch.arange(3_000_000.0),
            "scalar": torch.tensor(7),
            "z": torch.ones(2, dtype=torch.cfloat),
            **small,
        }
    }


os.environ["GLOO_SOCKET_IFNAME"] = "lo"
store = dist.TCPStore("127.0.0.1", PORT, is_master=False, timeout=timedelta(seconds=60))
dist.init_process_group("gloo", store=dist.PrefixStore("g", store), rank=RANK, world_size=SIZE)
peer = Peer(RANK, SIZE, dist.PrefixStore("c", store), dist.group.WORLD)
if sys.argv[5] == "save":
    own = CheckpointManager(LocalStorage(ROOT), Writer(int(sys.argv[6])), peer, Checkpoint(), {})
    for step in (1, 2):
        own.begin(step, shared(), {"rank": RANK, "rng": torch.full((RANK + 1,), RANK)}, {}).result()
else:
    if sys.argv[5] == "restore-apart":  # as ranks on two machines do
        spreading.can_lend = lambda *_: False
    else:
        seen = spreading.can_lend
        spreading.can_lend = lambda *args: lent.append(seen(*args)) or lent[-1]
    own = CheckpointManager(Counting(ROOT), Writer(9), peer, Checkpoint(), {})
    try:
        found = own.restore()
    except CheckpointError as error:
        print(json.dumps({"error": str(error)}))
    else:
        for name, tensor in shared()["model"].items():
            assert torch.equal(found.shared["model"][name], tensor), name
        if found.private is not None:
            assert found.private["rank"] == RANK
            assert torch.equal(found.private["rng"], torch.full((RANK + 1,), RANK))
        data = [name.rpartition("/")[2] for name in Counting.files if name.startswith(found.folder)]
        print(json.dumps({"step": found.step, "private": found.private is not None, "files": data, "lent": any(lent)}))
dist.destroy_process_group()
