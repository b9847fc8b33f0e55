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

from torchrelay.checkpoint import CheckpointManager, one_machine, spreading
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint

lent: list[Any] = []
ROOT, RANK, SIZE, PORT, WHAT = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:]


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


def shared(step: int) -> dict[str, Any]:
    small = {f"s{n:02d}": torch.full((n % 7, 3), n + step, dtype=torch.bfloat16) for n in range(50)}
    return {
        "model": {
            "big": torch.arange(3_000_000.0) + step,
            "scalar": torch.tensor(7 * step),
            "z": torch.ones(2, dtype=torch.cfloat) * step,
            **small,
        }
    }


def places() -> dict[str, Any]:
    """Where training has some of it already, also in another dtype, in another shape, and not in one piece."""
    model = shared(0)["model"]
    mine = {name: model[name] for name in ("big", "scalar", "s04", "s07", "s08")}
    mine |= {"s05": model["s05"].float(), "s06": torch.zeros(1, 3, dtype=torch.bfloat16), "s11": model["s11"].T}
    if "differing" in WHAT and RANK == 0:
        del mine["s04"]
    return {"model": mine}


os.environ["GLOO_SOCKET_IFNAME"] = "lo"
store = dist.TCPStore("127.0.0.1", PORT, is_master=False, timeout=timedelta(seconds=60))
dist.init_process_group("gloo", store=dist.PrefixStore("g", store), rank=RANK, world_size=SIZE)
peer = Peer(RANK, SIZE, dist.PrefixStore("c", store), dist.group.WORLD)
one_machine._PART_BYTES, one_machine._PIECE_BYTES = 3001, 1000  # so that a header takes several parts
if "save" in WHAT:
    own = CheckpointManager(LocalStorage(ROOT), Writer(1), peer, Checkpoint(), {})
    for step in (1, 2):
        own.begin(step, shared(step), {"rank": RANK, "rng": torch.full((RANK + 1,), RANK)}, {}).result()
else:
    if "apart" in WHAT:  # as ranks on two machines
        spreading.can_lend = lambda *_: False
    else:
        seen = spreading.can_lend
        spreading.can_lend = lambda *args: lent.append(seen(*args)) or lent[-1]
    if "short" in WHAT and RANK == 1:  # of memory, when some of it is read
        one_machine.Lent.write = lambda *_: os.pwrite(-1, b"", 0)
    own = CheckpointManager(Counting(ROOT), Writer(9), peer, Checkpoint(), {})
    into = places() if "into" in WHAT else None
    try:
        found = own.restore(into=into)
    except TorchrelayError as error:
        print(json.dumps({"kind": type(error).__name__, "error": str(error)}))
    else:
        model = found.shared["model"]
        assert list(model) == list(shared(found.step)["model"])  # the order of a dict is part of a state
        for name, tensor in shared(found.step)["model"].items():
            assert torch.equal(model[name], tensor), name
        if found.private is not None:
            assert found.private["rank"] == RANK
            assert torch.equal(found.private["rng"], torch.full((RANK + 1,), RANK))
        mine = into["model"] if into else {}
        placed = sorted(name for name in mine if model[name].data_ptr() == mine[name].data_ptr() != 0)
        data = [name.rpartition("/")[2] for name in Counting.files if name.startswith(found.folder)]
        seen = {"step": found.step, "private": found.private is not None, "files": data, "lent": any(lent)}
        print(json.dumps({**seen, "placed": placed}))
dist.destroy_process_group()
