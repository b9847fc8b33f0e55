"""torchrelay: what runs inside each rank. Importing it does not import torch until a name that needs it is used."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torchrelay.data.workers import DataLoader
    from torchrelay.run import Run
    from torchrelay.signals import worker_init
    from torchrelay.stop import Stopped
    from torchrelay.world import World

__version__ = "0.1.0"
__all__ = ["DataLoader", "Run", "Stopped", "World", "worker_init"]

_HOMES = {
    "DataLoader": "torchrelay.data.workers",
    "Run": "torchrelay.run",
    "Stopped": "torchrelay.stop",
    "World": "torchrelay.world",
    "worker_init": "torchrelay.signals",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'torchrelay' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
