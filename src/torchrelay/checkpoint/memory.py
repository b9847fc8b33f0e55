"""Host memory for what is large and touched for the first time: where the system allows, in pages of 2 MiB.

Taking memory in pages of 4 KiB costs about twice what reading a file of the page cache into it does.
"""

import contextlib
import mmap
from math import prod

import torch

LARGE_BYTES = 4 << 20


def empty(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A host tensor whose elements may be anything. Raises: MemoryError when there is no room for it."""
    size_bytes = prod(shape) * dtype.itemsize
    try:
        if size_bytes < LARGE_BYTES or not hasattr(mmap, "MADV_HUGEPAGE"):
            return torch.empty(shape, dtype=dtype)
        return _in_large_pages(size_bytes).view(dtype).view(shape)
    except (RuntimeError, OSError, OverflowError, ValueError) as error:
        raise MemoryError(str(error)) from None


def _in_large_pages(size_bytes: int) -> torch.Tensor:
    """Bytes that live as long as a tensor refers to them. Raises: OSError, OverflowError, ValueError."""
    pages = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without large pages
        pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=torch.uint8)
