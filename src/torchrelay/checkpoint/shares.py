"""Which rank writes which elements of the tensors that all ranks have. Pure: the same answer on every rank.

The tensors are laid end to end in one line of bytes, and the line is cut into as many equal lengths as there are
ranks. A cut that would split a small tensor moves to the tensor's nearer end, so that most tensors stay whole and can
be read by name with any safetensors tool.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

SMALLEST_SPLIT_BYTES = 4 << 20


@dataclass(frozen=True)
class Shape:
    """All that the assignment looks at in a tensor."""

    elements: int
    itemsize: int

    @property
    def size_bytes(self) -> int:
        return self.elements * self.itemsize


@dataclass(frozen=True)
class Share:
    """Elements [start, stop) of a flattened tensor, for one rank to write."""

    name: str
    start: int
    stop: int


def assign(tensors: Mapping[str, Shape], world_size: int, from_rank_0: Collection[str] = ()) -> list[list[Share]]:
    """The shares of each rank; every element is in exactly one. Tensors in `from_rank_0` go to rank 0, whole."""
    own = [name for name in sorted(tensors) if name in from_rank_0]
    others = [name for name in sorted(tensors) if name not in from_rank_0]
    own_bytes = sum(tensors[name].size_bytes for name in own)
    total = own_bytes + sum(tensors[name].size_bytes for name in others)
    shares: list[list[Share]] = [[] for _ in range(world_size)]
    shares[0] = [Share(name, 0, tensors[name].elements) for name in own]
    rank, offset = 0, own_bytes
    for name in others:
        shape, start = tensors[name], 0
        while rank < world_size - 1:
            cut = _cut(shape, total * (rank + 1) // world_size - offset)
            if cut >= shape.elements:
                break
            if cut > start:
                shares[rank].append(Share(name, start, cut))
                start = cut
            rank += 1
        if start < shape.elements or shape.elements == 0:
            shares[rank].append(Share(name, start, shape.elements))
        offset += shape.size_bytes
    return shares


def _cut(shape: Shape, after_bytes: int) -> int:
    """The element of a tensor before which the line is cut, if a cut is due `after_bytes` from the tensor's start."""
    if after_bytes <= 0:
        return 0
    if after_bytes >= shape.size_bytes:
        return shape.elements
    if shape.size_bytes < SMALLEST_SPLIT_BYTES:
        return 0 if after_bytes * 2 < shape.size_bytes else shape.elements
    return after_bytes // shape.itemsize
