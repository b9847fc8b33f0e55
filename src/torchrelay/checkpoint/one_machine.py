"""Restoring on one machine: each file is read and verified by one rank, into memory that all ranks of it map.

So a machine needs memory for one copy of the state, however many ranks it has, and nothing is sent. The tensors lie in
that memory; what a rank writes into them is its own from then on.
"""

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import torch
import torch.distributed as dist
import xxhash

from torchrelay.checkpoint.dtypes import dtype_of, writable_bytes
from torchrelay.checkpoint.lending import Lent, addresses, borrowed
from torchrelay.checkpoint.reader import empty_tensor
from torchrelay.contract.errors import CheckpointError
from torchrelay.contract.manifest import Manifest, TensorEntry, check_hash, check_slots, read_header, reading
from torchrelay.contract.safetensors_file import LENGTH_BYTES, Slot
from torchrelay.contract.storage import Storage, on_object_storage

_PIECE_BYTES = 2 << 20  # read at once; stays in the processor's cache until it is hashed and copied
_PIECE_BYTES_FAR = 64 << 20  # where one large read becomes several requests at once


@dataclass(frozen=True)
class Source:
    """A checkpoint in storage, which rank reads which of its files, and the ranks."""

    storage: Storage
    folder: str
    manifest: Manifest
    reader: Callable[[str], int]
    rank: int
    world_size: int

    def files_of(self, rank: int) -> list[str]:
        """The files of tensors that a rank reads."""
        names = sorted(name for name in self.manifest.files if name.endswith(".safetensors"))
        return [name for name in names if self.reader(name) == rank]


class Holding:
    """What one rank has read of a checkpoint's tensors, and lends."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lent: list[Lent] = []

    def read(self) -> None:
        """Read this rank's files, and verify all of them. Raises: CheckpointError for damage, StorageError."""
        for name in self._source.files_of(self._source.rank):
            lent = Lent()
            self._lent.append(lent)
            _read(self._source, name, lent)

    def tensors(self, wanted: Callable[[str], bool], group: dist.ProcessGroup) -> dict[str, torch.Tensor]:
        """The wanted tensors, in the memory of whoever has read them; all ranks have found their files whole.

        Collective: yes. Raises: CheckpointError, StorageError.
        """
        source = self._source
        files = [source.files_of(rank) for rank in range(source.world_size)]
        heard = addresses([lent.address for lent in self._lent], max(map(len, files)), group, source.world_size)
        mapped = {
            name: _Mapped(source, name, borrowed(address, source.manifest.files[name].size, name))
            for names, lent in zip(files, heard, strict=True)
            for name, address in zip(names, lent, strict=False)
        }
        return {name: _tensor(source.manifest, name, mapped) for name in source.manifest.tensors if wanted(name)}

    def close(self) -> None:
        """To be called when all ranks have their tensors, or none will."""
        for lent in self._lent:
            lent.close()


class _Mapped:
    """One file's bytes, and where in them its tensors are."""

    def __init__(self, source: Source, name: str, memory: mmap.mmap) -> None:
        self.memory = memory
        path, size = f"{source.folder}/{name}", source.manifest.files[name].size
        length = int.from_bytes(memory[:LENGTH_BYTES], "little")
        self.slots: dict[str, Slot] = read_header(BytesIO(memory[: LENGTH_BYTES + length]), size, path)[1]
        check_slots(source.manifest, name, self.slots, path)


def _read(source: Source, name: str, lent: Lent) -> None:
    path, entry = f"{source.folder}/{name}", source.manifest.files[name]
    most = _PIECE_BYTES_FAR if on_object_storage(source.storage) else _PIECE_BYTES
    buffer, hasher, left = memoryview(bytearray(min(most, entry.size))), xxhash.xxh3_128(), entry.size
    with reading(path), source.storage.open(path) as file:
        while left:
            count = file.readinto(buffer[:left])  # type: ignore[attr-defined]
            if not count:
                raise CheckpointError(f"{path} ended early")
            hasher.update(buffer[:count])
            _keep(lent, buffer[:count], path)
            left -= count
        if file.read(1):
            raise CheckpointError(f"{path} is longer than the {entry.size} bytes expected")
    check_hash(path, hasher.hexdigest(), entry)


def _keep(lent: Lent, data: memoryview, path: str) -> None:
    try:
        lent.append(data)
    except OSError as error:
        raise CheckpointError(f"no memory for {path}: {error.strerror}") from None


def _tensor(manifest: Manifest, name: str, mapped: dict[str, _Mapped]) -> torch.Tensor:
    entry = manifest.tensors[name]
    if len(entry.pieces) == 1 and entry.elements:
        file = mapped[entry.pieces[0].file]
        slot = file.slots[entry.pieces[0].key]
        if slot.begin % dtype_of(entry.dtype).itemsize == 0:
            return _in_place(file.memory, slot, entry)
    tensor = empty_tensor(manifest, name)  # one that is split has to be put together
    target, itemsize = writable_bytes(tensor), tensor.element_size()
    for piece in entry.pieces:
        file = mapped[piece.file]
        slot = file.slots[piece.key]
        target[piece.start * itemsize : piece.stop * itemsize] = memoryview(file.memory)[slot.begin : slot.end]
    return tensor


def _in_place(memory: Any, slot: Slot, entry: TensorEntry) -> torch.Tensor:
    data = torch.frombuffer(memory, dtype=torch.uint8, count=slot.end - slot.begin, offset=slot.begin)
    return data.view(dtype_of(entry.dtype)).view(entry.shape)
