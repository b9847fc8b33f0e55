"""Host memory that a rank's share of a state is copied into, so that training can go on while it is written.

The buffer is laid out as the file will be, and is used for every save anew: memory that has been touched is copied into
several times faster than fresh memory, and there is never more than one copy. On CUDA it is pinned, which lets the
device copy into it at full speed.
"""

import logging
import threading
import weakref
from collections.abc import Iterable

import numpy as np
import torch

from torchrelay.checkpoint.dtypes import in_a_row
from torchrelay.checkpoint.places import is_plain_memory
from torchrelay.contract.errors import CheckpointError

logger = logging.getLogger(__name__)
_PAGE_BYTES = 4096


class Staging:
    """One rank's buffer. Only one save at a time may use what `fill` returns."""

    def __init__(self) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)
        self._pinned = False
        self._preparing: threading.Thread | None = None

    @property
    def size_bytes(self) -> int:
        """Bytes of host memory that are taken."""
        return self._buffer.numel()

    def prepare(self, size_bytes: int, device: torch.device | None) -> None:
        """Have the memory there before the first save needs it; on a thread of its own, as touching it takes long.

        `device`: the GPU that will copy into it, if there is one.
        """
        self._wait()
        if self._fits(size_bytes, device is not None):
            return
        self._preparing = threading.Thread(
            target=self._take, args=(size_bytes, device), name="checkpoint buffer", daemon=True
        )
        self._preparing.start()

    def fill(self, parts: Iterable[tuple[torch.Tensor, int, int]]) -> memoryview:
        """Copy elements [start, stop) of each tensor, one behind the other; the bytes, which the next call overwrites.

        Complete on return: the tensors may change at once. Raises: CheckpointError when memory runs out.
        """
        listed = list(parts)
        size = sum((stop - start) * tensor.element_size() for tensor, start, stop in listed)
        devices = {tensor.device for tensor, _, _ in listed if tensor.is_cuda}
        self.prepare(size, next(iter(devices), None))  # a failure to pin stays with a thread of its own
        self._wait()
        if not self._fits(size, bool(devices)):
            raise CheckpointError(f"no memory for a checkpoint: {size} bytes in each rank could not be had")
        offset = 0
        for tensor, start, stop in listed:
            end = offset + (stop - start) * tensor.element_size()
            _copy(self._buffer[offset:end], tensor, start, stop)
            offset = end
        for device in devices:
            torch.cuda.current_stream(device).synchronize()
        return self._buffer[:size].numpy().data if size else memoryview(b"")

    def _fits(self, size_bytes: int, pinned: bool) -> bool:
        return size_bytes <= self._buffer.numel() and (self._pinned or not pinned)

    def _wait(self) -> None:
        if self._preparing is not None:
            self._preparing.join()
            self._preparing = None

    def _take(self, size_bytes: int, device: torch.device | None) -> None:
        self._buffer = torch.empty(0, dtype=torch.uint8)  # the old one goes first
        try:
            self._buffer = torch.empty(size_bytes, dtype=torch.uint8)
        except RuntimeError as error:  # which `fill` says, if it comes to that
            logger.debug("no buffer of %d bytes for checkpoints: %s", size_bytes, error)
            return
        self._pinned = device is not None
        if device is not None and size_bytes:
            with torch.cuda.device(device):  # a new thread begins with GPU 0, and registering makes a context there
                _pin(self._buffer)
        else:
            self._buffer[::_PAGE_BYTES] = 0


def _copy(target: torch.Tensor, tensor: torch.Tensor, start: int, stop: int) -> None:
    """Elements [start, stop) of a tensor in row-major order into as many bytes of the host."""
    if start == stop:
        return
    if tensor.is_cuda:  # of a lazy conjugate or negative the host would finish the copy before it has come
        tensor = tensor.resolve_conj().resolve_neg()
    if is_plain_memory(tensor):  # as bytes by memcpy, which writes past the caches: a quarter faster than copy_
        np.copyto(target.numpy(), in_a_row(tensor.detach())[start:stop].view(torch.uint8).numpy())
        return
    typed = target.view(tensor.dtype)
    if stop - start == tensor.numel():
        typed.view(tensor.shape).copy_(tensor, non_blocking=tensor.is_cuda)
    else:
        typed.copy_(tensor.reshape(-1)[start:stop], non_blocking=tensor.is_cuda)


def _pin(buffer: torch.Tensor) -> None:
    """Register memory with CUDA, to the byte: torch's own pinned memory comes in powers of two."""
    runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]
    address, size = buffer.data_ptr(), buffer.numel()
    if int(runtime.cudaHostRegister(address, size, 0)) != 0:
        logger.debug("no pinned memory of %d bytes for checkpoints; copies are slower without", size)
        return
    weakref.finalize(buffer.untyped_storage(), runtime.cudaHostUnregister, address)
