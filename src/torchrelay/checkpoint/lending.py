"""Memory that the ranks of one machine lend each other: one fills it, all have it.

What is lent has no name in any file system, so nothing is left of it however a rank ends, and /dev/shm may be small. A
rank opens the memory of another by way of /proc.
"""

import mmap
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist

from torchrelay.contract.errors import StorageError

NOTHING = (0, -1, 0, 0)
Address = tuple[int, int, int, int]  # process, descriptor there, token, bytes


class Lent:
    """Memory to be filled by this rank, and then to be mapped by all. Raises: OSError where there can be none."""

    def __init__(self, size_bytes: int) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("no memory without a name on this system")
        self._token = secrets.randbits(62)
        self._size = max(size_bytes, 1)  # nothing cannot be mapped
        self._descriptor = os.memfd_create(_name(self._token), os.MFD_CLOEXEC)
        os.ftruncate(self._descriptor, self._size)

    @property
    def address(self) -> Address:
        """By which the others find it, until `close`."""
        return os.getpid(), self._descriptor, self._token, self._size

    def write(self, at: int, data: memoryview) -> None:
        """Raises: OSError when memory runs out."""
        while data:
            count = os.pwrite(self._descriptor, data, at)
            at, data = at + count, data[count:]

    def memory(self) -> mmap.mmap:
        """All of it, there from now on, to be written by this rank. Raises: OSError when memory runs out."""
        os.posix_fallocate(self._descriptor, 0, self._size)
        return mmap.mmap(self._descriptor, self._size)

    def close(self) -> None:
        """No more of the others can map it; those who have, keep it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def borrow(address: Address, *, to_keep: bool) -> mmap.mmap:
    """Map what a rank of this machine lends. Raises: OSError, ValueError if it cannot be had.

    `to_keep`: it is filled, and what is written into it here, no other sees. Otherwise it is to be read, and shows what
    its rank writes.
    """
    pid, descriptor, token, size_bytes = address
    opened = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _name(token) not in Path(f"/proc/self/fd/{opened}").readlink().name:  # another machine's process number
            raise ValueError(f"process {pid} is not the one that lends")
        if to_keep:
            return mmap.mmap(opened, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        return mmap.mmap(opened, size_bytes, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
    finally:
        os.close(opened)


def borrowed(address: Address, *, to_keep: bool) -> mmap.mmap:
    """As `borrow`, for what a rank reads. Raises: StorageError."""
    try:
        return borrow(address, to_keep=to_keep)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot map what another rank reads of the checkpoint: {error}") from error


def addresses(own: Sequence[Lent | None], group: dist.ProcessGroup, world_size: int) -> list[list[Address]]:
    """What each rank lends, by rank; all lend as many.

    Collective: yes
    """
    told = torch.tensor([lent.address if lent else NOTHING for lent in own], dtype=torch.int64)
    heard = [torch.empty_like(told) for _ in range(world_size)]
    dist.all_gather(heard, told, group=group)
    return [[(int(a), int(b), int(c), int(d)) for a, b, c, d in one.tolist()] for one in heard]


def can_lend(group: dist.ProcessGroup, world_size: int) -> bool:
    """Whether all ranks can have each other's memory: the same answer on all of them.

    Collective: yes
    """
    lent = None
    with suppress(OSError):
        lent = Lent(1)
    try:
        well = torch.tensor([all(_can_borrow(one) for (one,) in addresses([lent], group, world_size))])
        dist.all_reduce(well, dist.ReduceOp.MIN, group=group)  # behind it, nobody needs what was lent
    finally:
        if lent is not None:
            lent.close()
    return bool(well)


def _can_borrow(address: Address) -> bool:
    try:
        borrow(address, to_keep=False).close()
    except (OSError, ValueError):
        return False
    return True


def _name(token: int) -> str:
    return f"torchrelay-{token:016x}"
