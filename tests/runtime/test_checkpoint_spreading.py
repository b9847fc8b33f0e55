"""Real ranks that restore together: each file is read by one of them, and all of them get all of it."""

import json
import subprocess
import sys
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from torchrelay.contract import manifest
from torchrelay.contract.storage import LocalStorage

PROGRAM = Path(__file__).with_name("programs") / "spread.py"


def gang(root: Path, world_size: int, *arguments: str) -> list[Any]:
    """What each rank printed."""
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))
    ranks = [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), str(root), str(rank), str(world_size), str(server.port), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(world_size)
    ]
    try:
        ended = [rank.communicate(timeout=240) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    for rank, (_, err) in zip(ranks, ended, strict=True):
        assert rank.returncode == 0, err.decode()
    return [json.loads(out) if out else None for out, _ in ended]


@pytest.mark.parametrize(
    ("saved_by", "restored_by", "how"),
    [(2, 2, "apart into"), (2, 3, ""), (3, 2, "into"), (2, 2, "into differing")],
)
def test_each_file_is_read_by_one_rank_and_everyone_has_all(
    tmp_path: Path, saved_by: int, restored_by: int, how: str
) -> None:
    gang(tmp_path, saved_by, "save")
    storage = LocalStorage(tmp_path)
    newest = manifest.committed(storage)[0]
    assert manifest.verify(storage, newest.folder) == []
    ends = gang(tmp_path, restored_by, "restore", *how.split())
    assert [one["step"] for one in ends] == [2] * restored_by
    assert [one["lent"] for one in ends] == ["apart" not in how] * restored_by
    assert [one["private"] for one in ends] == [rank < saved_by for rank in range(restored_by)]
    filled = ["big", "s04", "s08", "scalar"] if "into" in how and "differing" not in how else []
    assert [one["placed"] for one in ends] == [filled] * restored_by
    read = Counter(name for one in ends for name in one["files"])
    files = manifest.read_manifest(storage, newest.folder).files
    assert read == Counter([*files, "manifest.json"])
    sharing = [rank for rank, one in enumerate(ends) if any(name.endswith(".safetensors") for name in one["files"])]
    assert sharing == list(range(min(saved_by, restored_by)))

    damaged = tmp_path / newest.folder / manifest.rank_file(1, "safetensors")
    content = bytearray(damaged.read_bytes())
    content[2 if how == "into" else -9] ^= 1  # in the size of its header, or in a tensor
    damaged.write_bytes(content)
    assert [one["step"] for one in gang(tmp_path, restored_by, "restore", *how.split())] == [1] * restored_by
    assert storage.size(f"{newest.folder}/{manifest.DAMAGED}") is not None


def test_a_rank_that_is_short_of_memory_ends_the_restore_on_all(tmp_path: Path) -> None:
    gang(tmp_path, 2, "save")
    ends = gang(tmp_path, 2, "restore", "short")
    assert {one["kind"] for one in ends} == {"TorchrelayError"}
    assert all("rank 1: there is not enough memory on this machine to restore" in one["error"] for one in ends)
    storage = LocalStorage(tmp_path)
    assert [storage.size(f"{one.folder}/{manifest.DAMAGED}") for one in manifest.committed(storage)] == [None, None]
