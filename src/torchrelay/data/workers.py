"""torch's DataLoader with workers that outlive a stop."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch.utils.data

from torchrelay import signals

Sample_co = TypeVar("Sample_co", covariant=True)


class DataLoader(torch.utils.data.DataLoader[Sample_co]):
    """torch's DataLoader, with the same arguments, whose workers no stop signal ends.

    Ctrl-C and most schedulers signal the whole process group or job step. A worker that died of it would take its rank
    along, before that has saved. The workers are shielded from their first moment on, also when they start in the very
    moment of a stop. Collective: no
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.worker_init_fn = partial(_begin, self.worker_init_fn)

    def __iter__(self) -> Any:
        with signals.held():
            return super().__iter__()


def _begin(also: Callable[[int], None] | None, worker: int) -> None:
    signals.worker_init(worker)
    if also is not None:
        also(worker)
