"""What a backend itself says of an attempt that has no outcome yet, such as how it stands in a queue."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.storage import Storage


@dataclass(frozen=True)
class Observed:
    """An attempt as its backend sees it."""

    state: RunState | None  # None: as storage says
    says: str = ""  # for people: "job 12 waits: Priority, expected to start at 12:30"
    error: str | None = None  # why it will not go on
    unreachable: bool = False  # the backend does not answer now, and may know more

    @property
    def live(self) -> bool:
        return self.state in (RunState.PENDING, RunState.RUNNING)


# Backends that know more than the run's storage does; imported only when a run is theirs.
_OBSERVERS = {
    "slurm": "torchrelay_launch.backends.slurm.watching:observe",
    "kubernetes": "torchrelay_launch.backends.kubernetes.watching:observe",
}


def observe(storage: Storage, backend: str, attempt: int) -> Observed | None:
    """Ask the backend, or None if it knows nothing, cannot be reached, or has nothing to add."""
    name = _OBSERVERS.get(backend)
    if name is None:
        return None
    module, _, attribute = name.partition(":")
    ask = cast("Callable[[Storage, int], Observed | None]", getattr(importlib.import_module(module), attribute))
    return ask(storage, attempt)
