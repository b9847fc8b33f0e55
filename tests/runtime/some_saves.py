"""A state, and a rank without peers that saves it."""

import math
from pathlib import Path
from typing import Any

import torch
from alone import Alone

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract import manifest
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint

SHARED = {
    "model": {"w": torch.arange(12.0).reshape(3, 4), "empty": torch.zeros(0, 3), "scalar": torch.tensor(7)},
    "progress": {"epoch": 3, "best": math.inf, "names": ("a", "b")},
}
PRIVATE = {"rng": torch.arange(10, dtype=torch.uint8), "python": [1, (2, 3), None]}


def manager(root: Path | LocalStorage, writer: Writer | None = None, **policy: Any) -> CheckpointManager:
    storage = root if isinstance(root, LocalStorage) else LocalStorage(root)
    return CheckpointManager(storage, writer or Writer(1), Alone(), Checkpoint(**policy), {"torch": "x"})


def save(root: Path | LocalStorage, *steps: int, writer: Writer | None = None, **policy: Any) -> list[str]:
    saver = manager(root, writer, **policy)
    return [saver.save(step, SHARED, PRIVATE, {"loss": 1.0 / step}, samples=64 * step).folder for step in steps]


def steps(root: Path) -> list[int]:
    return [one.step for one in manifest.committed(LocalStorage(root))]
