"""Reading a checkpoint's files into tensors, checked against the manifest while they are read."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, BinaryIO

import torch
import xxhash

from torchrelay.checkpoint.dtypes import dtype_of, writable_bytes
from torchrelay.contract import strict_json
from torchrelay.contract.errors import CheckpointError, TorchrelayError
from torchrelay.contract.manifest import (
    READ_BYTES,
    Manifest,
    check_hash,
    check_size,
    check_slots,
    read_header,
    reading,
)
from torchrelay.contract.storage import Storage

_RANK_FILE = re.compile(r"rank-(\d{5,9})\.")


def memory_for(manifest: Manifest, names: Iterable[str], places: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors to be filled: those of `places`, else new ones. Raises: TorchrelayError without enough memory."""
    return {name: places[name] if name in places else empty_tensor(manifest, name) for name in names}


def place(manifest: Manifest, name: str) -> int:
    """A number for a file by which ranks share the reading: that of the rank that wrote it, else its place."""
    match = _RANK_FILE.match(name)
    return int(match[1]) if match else sorted(manifest.files).index(name)


def read_json(storage: Storage, folder: str, manifest: Manifest, name: str) -> Any:
    """A JSON file of a checkpoint. Raises: CheckpointError, StorageError."""
    path, entry = f"{folder}/{name}", manifest.files[name]
    check_size(storage, path, entry)
    with reading(path):
        data = storage.read(path)
    check_hash(path, xxhash.xxh3_128_hexdigest(data), entry)
    return strict_json.parse(data, path)


def empty_tensor(manifest: Manifest, name: str) -> torch.Tensor:
    """Memory for one tensor, on the host. Raises: TorchrelayError when there is not enough of it."""
    entry = manifest.tensors[name]
    try:
        return torch.empty(entry.shape, dtype=dtype_of(entry.dtype))
    except (RuntimeError, MemoryError) as error:
        raise no_memory(f"for {name[:80]!r}, {entry.dtype} {list(entry.shape)}", error) from None


def no_memory(what_for: str, error: Exception) -> TorchrelayError:
    """That this machine is short of memory: no damage, which would have the checkpoint passed over for an older one.

    Its files are there in the sizes that the manifest says, so it claims no more than it has.
    """
    said = (error.strerror if isinstance(error, OSError) else None) or str(error).splitlines()[0]
    return TorchrelayError(f"there is not enough memory on this machine {what_for}: {said}")


def read_file(storage: Storage, folder: str, name: str, manifest: Manifest, tensors: dict[str, torch.Tensor]) -> None:
    """Read a file of tensors into those that are given, and verify all of it.

    Raises: CheckpointError for a damaged file, StorageError for one that cannot be read.
    """
    path, entry = f"{folder}/{name}", manifest.files[name]
    targets = places_in_file(manifest, name, tensors)
    hasher = xxhash.xxh3_128()
    with reading(path), storage.open(path) as file:
        head, slots = read_header(file, entry.size, path)
        check_slots(manifest, name, slots, path)
        hasher.update(head)
        for key, slot in slots.items():
            size = slot.end - slot.begin
            _fill(file, targets.get(key), size, hasher, path)
        if file.read(1):
            raise CheckpointError(f"{path} is longer than the {entry.size} bytes expected")
    check_hash(path, hasher.hexdigest(), entry)


def read_exactly(file: BinaryIO, memory: memoryview, path: str) -> None:
    """Fill memory with a file's next bytes. Raises: CheckpointError when there are not as many."""
    while memory:
        count = file.readinto(memory)  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{path} ended early")
        memory = memory[count:]


def places_in_file(manifest: Manifest, file: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, memoryview]:
    """Where the bytes of each key of a file belong."""
    targets = {}
    for name, tensor in tensors.items():
        pieces = [piece for piece in manifest.tensors[name].pieces if piece.file == file]
        if pieces:
            memory, itemsize = writable_bytes(tensor), tensor.element_size()
            targets.update({p.key: memory[p.start * itemsize : p.stop * itemsize] for p in pieces})
    return targets


def _fill(file: BinaryIO, target: memoryview | None, size: int, hasher: Any, path: str) -> None:
    """Read `size` bytes into `target`, or past them if nobody wants them, and hash them."""
    if target is None:
        target = memoryview(bytearray(min(size, READ_BYTES)))
    done = 0
    while done < size:
        at = done % len(target)
        part = target[at : at + min(READ_BYTES, size - done, len(target) - at)]
        read_exactly(file, part, path)
        hasher.update(part)
        done += len(part)
