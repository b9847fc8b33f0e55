"""A safetensors file that comes in parts, taken into the memory of the tensors that are wanted of it."""

from collections import deque

import torch

from torchrelay.checkpoint.dtypes import writable_bytes
from torchrelay.contract.manifest import Manifest, check_slots
from torchrelay.contract.safetensors_file import LENGTH_BYTES, header_size, parse_header


class Filling:
    """One file, from its first byte to its last. Trusts nothing in it but its size."""

    def __init__(self, manifest: Manifest, name: str, path: str, tensors: dict[str, torch.Tensor]) -> None:
        self._manifest, self._name, self._path, self._tensors = manifest, name, path, tensors
        self._size = manifest.files[name].size
        header_size(bytes(LENGTH_BYTES), self._size, path)  # refuses a file that is too short for a header
        self._head = bytearray()
        self._places: deque[tuple[int, memoryview | None]] | None = None  # bytes to come, and where they belong

    def take(self, data: memoryview) -> None:
        """The next bytes of the file. Raises: CheckpointError unless it holds the pieces that the manifest says."""
        while self._places is None:
            part = data[: self._head_bytes() - len(self._head)]
            self._head += part
            data = data[len(part) :]
            if len(self._head) == self._head_bytes():
                self._places = self._parsed()
            elif not data:
                return
        self._put(data)

    def _head_bytes(self) -> int:
        """How long the header is, as far as that is known."""
        if len(self._head) < LENGTH_BYTES:
            return LENGTH_BYTES
        return LENGTH_BYTES + header_size(bytes(self._head[:LENGTH_BYTES]), self._size, self._path)

    def _parsed(self) -> deque[tuple[int, memoryview | None]]:
        slots = parse_header(bytes(self._head[LENGTH_BYTES:]), self._size, self._path)
        check_slots(self._manifest, self._name, slots, self._path)
        targets = piece_targets(self._manifest, self._name, self._tensors)
        return deque((slot.end - slot.begin, targets.get(key)) for key, slot in slots.items())

    def _put(self, data: memoryview) -> None:
        assert self._places is not None
        while data:
            size, target = self._places[0]
            part = data[:size]
            data = data[len(part) :]
            if target is not None:
                target[: len(part)] = part
                target = target[len(part) :]
            if len(part) == size:
                self._places.popleft()
            else:
                self._places[0] = size - len(part), target


def piece_targets(manifest: Manifest, file: str, tensors: dict[str, torch.Tensor]) -> dict[str, memoryview]:
    """Where the bytes of each key of a file belong, of those tensors that are given."""
    targets = {}
    for name, tensor in tensors.items():
        pieces = [piece for piece in manifest.tensors[name].pieces if piece.file == file]
        if pieces:
            memory, itemsize = writable_bytes(tensor), tensor.element_size()
            targets.update({p.key: memory[p.start * itemsize : p.stop * itemsize] for p in pieces})
    return targets
