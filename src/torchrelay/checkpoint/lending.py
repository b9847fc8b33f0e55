"""Memory that the ranks of one machine lend each other: one holds the bytes of a file, all have tensors in it.

What is lent has no name in any file system, so nothing is left of it however a rank ends, and /dev/shm may be small. A
rank opens the memory of another by way of /proc. Each maps it as its own: what one writes, no other sees.
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

NOTHING = (0, -1, 0)
Address = tuple[int, int, int]  # process, descriptor there, token


class Lent:
    """Memory to be filled by this rank, and then to be mapped by all. Raises: OSError where there can be none."""

    def __init__(self) -> None:
        if not hasattr(os, "memfd_create"):
            raise OSError("no memory without a name on this system")
        self._token = secrets.randbits(62)
        self._descriptor = os.memfd_create(_name(self._token), os.MFD_CLOEXEC)

    @property
    def address(self) -> Address:
        """By which the others find it, until `close`."""
        return os.getpid(), self._descriptor, self._token

    def append(self, data: memoryview) -> None:
        """Raises: OSError when memory runs out."""
        while data:
            data = data[os.write(self._descriptor, data) :]

    def close(self) -> None:
        """No more of the others can map it; those who have, keep it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = -1


def borrow(address: Address, size_bytes: int) -> mmap.mmap:
    """Map what another rank of this machine lends, or this one. Raises: OSError, ValueError if it cannot be had."""
    pid, descriptor, token = address
    opened = os.open(f"/proc/{pid}/fd/{descriptor}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _name(token) not in Path(f"/proc/self/fd/{opened}").readlink().name:  # another machine's process number
            raise ValueError(f"process {pid} is not the one that lends")
        return mmap.mmap(opened, size_bytes, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    finally:
        os.close(opened)


def addresses(own: Sequence[Address], most: int, group: dist.ProcessGroup, world_size: int) -> list[list[Address]]:
    """What each rank lends, by rank. `most`: how many the longest list has.

    Collective: yes
    """
    told = torch.tensor([*own, *[NOTHING] * (most - len(own))], dtype=torch.int64)
    heard = [torch.empty_like(told) for _ in range(world_size)]
    dist.all_gather(heard, told, group=group)
    return [[(int(pid), int(descriptor), int(token)) for pid, descriptor, token in one.tolist()] for one in heard]


def can_lend(group: dist.ProcessGroup, world_size: int) -> bool:
    """Whether all ranks can have each other's memory: the same answer on all of them.

    Collective: yes
    """
    lent = None
    with suppress(OSError):
        lent = Lent()
        lent.append(memoryview(b"tried"))
    try:
        heard = addresses([lent.address if lent else NOTHING], 1, group, world_size)
        well = torch.tensor([all(_can_borrow(one) for (one,) in heard)], dtype=torch.int32)
        dist.all_reduce(well, dist.ReduceOp.MIN, group=group)  # behind it, nobody needs what was lent
    finally:
        if lent is not None:
            lent.close()
    return bool(well)


def _can_borrow(address: Address) -> bool:
    try:
        borrow(address, len(b"tried")).close()
    except (OSError, ValueError):
        return False
    return True


def borrowed(address: Address, size_bytes: int, what: str) -> mmap.mmap:
    """As `borrow`, for a file's bytes. Raises: StorageError."""
    try:
        return borrow(address, size_bytes)
    except (OSError, ValueError) as error:
        raise StorageError(f"cannot map {what} from the rank that has read it: {error}") from error


def _name(token: int) -> str:
    return f"torchrelay-{token:016x}"
