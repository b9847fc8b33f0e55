"""Memory that all ranks of one machine see: each writes into slots of its own, and reads the slots of the others.

It has no name in any file system, so nothing is left of it however a rank ends, and /dev/shm may be small. A rank
opens the memory of another by way of /proc. Where that cannot be done (several machines, containers apart, no Linux),
there is no window, and what the ranks have for each other goes over the process group.
"""

import mmap
import os
import secrets
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist

from torchrelay.contract.errors import PeerLostError

_SLOTS = 2  # while one is read by the others, the next is filled


class Window:
    """Two slots for each rank, used in turn. All ranks call `agree` between filling a slot and reading the others'."""

    def __init__(self, group: dist.ProcessGroup, rank: int, memories: list[memoryview]) -> None:
        self._group, self._rank, self._memories = group, rank, memories
        self.slot_bytes = len(memories[rank]) // _SLOTS

    def own(self, turn: int, size: int) -> memoryview:
        """The first bytes of this rank's slot, to be filled before `agree`."""
        return self._slot(self._rank, turn)[:size]

    def of(self, rank: int, turn: int, size: int) -> memoryview:
        """What a rank filled its slot with; read-only for the others, and theirs until the next `agree`."""
        return self._slot(rank, turn)[:size].toreadonly()

    def agree(self, well: bool) -> bool:
        """Whether all ranks are well. Collective: yes. Raises: PeerLostError when a rank is gone."""
        flag = torch.tensor([well], dtype=torch.int32)
        try:
            dist.all_reduce(flag, dist.ReduceOp.MIN, group=self._group)
        except RuntimeError as error:
            raise PeerLostError("another rank is gone while a checkpoint was read together") from error
        return bool(flag)

    def _slot(self, rank: int, turn: int) -> memoryview:
        """With two slots one `agree` is enough: who is past it has read all that was in the slot filled next."""
        start = turn % _SLOTS * self.slot_bytes
        return self._memories[rank][start : start + self.slot_bytes]


def open_window(group: dist.ProcessGroup, rank: int, world_size: int, slot_bytes: int) -> Window | None:
    """The ranks' window, or None, on all ranks alike, if not all of them can see each other's memory.

    Collective: yes
    """
    made = _Made(slot_bytes * _SLOTS)
    try:
        told = torch.tensor([os.getpid(), made.descriptor, made.token], dtype=torch.int64)
        heard = [torch.empty_like(told) for _ in range(world_size)]
        dist.all_gather(heard, told, group=group)
        memories = [_opened(*(int(value) for value in one), made.size_bytes) for one in heard]
        all_open = torch.tensor([None not in memories], dtype=torch.int32)
        dist.all_reduce(all_open, dist.ReduceOp.MIN, group=group)  # from here on no descriptor is needed
    finally:
        made.close()
    return Window(group, rank, [memory for memory in memories if memory is not None]) if all_open else None


class _Made:
    """A rank's own memory, under a descriptor that the others can open; it is -1 where there can be none."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes, self.descriptor, self.token = size_bytes, -1, secrets.randbits(62)
        with suppress(OSError, AttributeError):  # no memory; no Linux
            self.descriptor = os.memfd_create(_name(self.token), os.MFD_CLOEXEC)
            os.ftruncate(self.descriptor, size_bytes)

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


def _opened(pid: int, descriptor: int, token: int, size_bytes: int) -> memoryview | None:
    """The memory of a process, if it is on this machine. Another one may have the same number: the token tells."""
    if descriptor < 0:
        return None
    with suppress(OSError, ValueError):
        opened = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC)
        try:
            if _name(token) in Path(f"/proc/self/fd/{opened}").readlink().name:
                return memoryview(mmap.mmap(opened, size_bytes))
        finally:
            os.close(opened)
    return None


def _name(token: int) -> str:
    return f"torchrelay-{token:016x}"
