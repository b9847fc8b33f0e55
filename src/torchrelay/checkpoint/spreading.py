"""Spreading what each rank has read of a checkpoint over the process group: from its reader to everyone.

Small pieces travel together, large ones straight from and to the tensors' memory, several at a time and from different
ranks in turn, so that all connections are busy.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
import torch.distributed as dist
import xxhash

from torchrelay.checkpoint.dtypes import in_a_row
from torchrelay.checkpoint.lending import can_lend
from torchrelay.contract.manifest import Manifest, owner
from torchrelay.contract.safetensors_file import DTYPES

_LARGE_BYTES = 4 << 20  # pieces from this size on travel alone
_MOST_BYTES = 32 << 20  # of one broadcast
_AT_ONCE = 4  # broadcasts under way


@dataclass
class _Load:
    """One broadcast: the places in tensors that it fills, each a tensor's name and its bytes [start, stop)."""

    root: int
    parts: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def size(self) -> int:
        return sum(stop - start for _, start, stop in self.parts)


class Spreading:
    """Broadcasts over a gloo group of all ranks. Every method is collective."""

    def __init__(self, group: dist.ProcessGroup, rank: int, world_size: int) -> None:
        self.group, self._rank, self._world_size = group, rank, world_size
        self._one_machine: bool | None = None

    def one_machine(self) -> bool:
        """Whether all ranks can share memory, so that nothing needs to be sent."""
        if self._one_machine is None:
            self._one_machine = self._world_size > 1 and can_lend(self.group, self._world_size)
        return self._one_machine

    def bytes(self, data: bytes | None, root: int) -> bytes:
        """The bytes that `root` has, on every rank."""
        mine = self._rank == root
        assert not mine or data is not None
        size = torch.tensor([len(data or b"")], dtype=torch.int64)
        dist.broadcast(size, root, group=self.group)
        sent = torch.empty(int(size), dtype=torch.uint8)
        if mine and data:
            sent.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
        dist.broadcast(sent, root, group=self.group)
        return sent.numpy().tobytes()

    def alike(self, names: Iterable[str]) -> bool:
        """Whether all ranks have the same names."""
        digest = xxhash.xxh3_64_intdigest("\0".join(sorted(names)).encode()) >> 1
        told = torch.tensor([digest, -digest])
        dist.all_reduce(told, dist.ReduceOp.MAX, group=self.group)
        return int(told[0]) == -int(told[1])

    def tensors(self, manifest: Manifest, tensors: Mapping[str, torch.Tensor], reader: Callable[[str], int]) -> None:
        """Fill `tensors`, of which each rank has what it read, with what the others read. `reader`: of a file."""
        under_way: deque[_Sending] = deque()
        for load in _loads(manifest, reader, self._world_size):
            if len(under_way) == _AT_ONCE:
                under_way.popleft().finish()
            under_way.append(_Sending(load, tensors, self.group, self._rank))
        for sending in under_way:
            sending.finish()


class _Sending:
    """One broadcast that is under way."""

    def __init__(self, load: _Load, tensors: Mapping[str, torch.Tensor], group: dist.ProcessGroup, rank: int) -> None:
        self._places = [_bytes_of(tensors.get(name), start, stop) for name, start, stop in load.parts]
        self._receives = load.root != rank
        if len(self._places) == 1:
            self._sent = self._places[0]
        elif self._receives:
            self._sent = torch.empty(load.size, dtype=torch.uint8)
        else:
            self._sent = torch.cat(self._places)
        self._work = dist.broadcast(self._sent, load.root, group=group, async_op=True)

    def finish(self) -> None:
        assert self._work is not None
        self._work.wait()
        if self._receives and len(self._places) > 1:
            for place, data in zip(self._places, torch.split(self._sent, [len(p) for p in self._places]), strict=True):
                place.copy_(data)


def _bytes_of(tensor: torch.Tensor | None, start: int, stop: int) -> torch.Tensor:
    """A part of a tensor's memory; scratch memory where the tensor is another rank's own."""
    if tensor is None:
        return torch.empty(stop - start, dtype=torch.uint8)
    return in_a_row(tensor).view(torch.uint8)[start:stop]


def _loads(manifest: Manifest, reader: Callable[[str], int], world_size: int) -> Iterator[_Load]:
    """All broadcasts, in an order that is the same on all ranks and has the senders take turns."""
    senders: dict[int, list[_Load]] = {}
    open_loads: dict[int, _Load] = {}
    for name, entry in manifest.tensors.items():
        itemsize = DTYPES[entry.dtype].itemsize
        for piece in entry.pieces:
            root = reader(piece.file)
            if not _has_takers(name, root, world_size):
                continue
            start, stop = piece.start * itemsize, piece.stop * itemsize
            loads = senders.setdefault(root, [])
            if stop - start >= _LARGE_BYTES:
                loads += [
                    _Load(root, [(name, at, min(at + _MOST_BYTES, stop))]) for at in range(start, stop, _MOST_BYTES)
                ]
            elif stop > start:
                if root not in open_loads or open_loads[root].size >= _LARGE_BYTES:
                    open_loads[root] = _Load(root)
                    loads.append(open_loads[root])
                open_loads[root].parts.append((name, start, stop))
    for turn in zip_longest(*senders.values()):
        yield from (load for load in turn if load is not None)


def _has_takers(name: str, root: int, world_size: int) -> bool:
    """Whether anyone but its reader wants a tensor: shared ones all do, a rank's own only that rank."""
    private_to = owner(name)
    return private_to is None or (private_to != root and private_to < world_size)
