"""Several transforms in a row, without needing torchvision."""

from collections.abc import Callable, Sequence
from typing import Any


class InOrder:
    """Applies transforms one after another."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, sample: Any) -> Any:
        for transform in self.transforms:
            sample = transform(sample)
        return sample

    def __repr__(self) -> str:
        return f"InOrder({self.transforms!r})"
