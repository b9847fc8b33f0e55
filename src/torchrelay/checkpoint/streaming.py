"""A file of tensors as its bytes come, a few at a time: each goes where its tensor is."""

from collections.abc import Callable, Iterator, Mapping
from io import BytesIO

from torchrelay.contract.manifest import Manifest, check_slots, read_header
from torchrelay.contract.safetensors_file import LENGTH_BYTES, Slot, header_size

Put = Callable[[int, memoryview], None]  # at which byte of a piece, and its bytes from there


class Stream:
    """The bytes of one file, in order. `puts`: what takes those of each key; those of others are passed over."""

    def __init__(self, manifest: Manifest, name: str, path: str, puts: Mapping[str, Put]) -> None:
        self._manifest, self._name, self._path, self._puts = manifest, name, path, puts
        self._size = manifest.files[name].size
        self._head = bytearray()
        self._slots: Iterator[tuple[str, Slot]] | None = None
        self._key, self._slot, self._at = "", Slot("", (), 0, 0), 0

    def feed(self, data: memoryview) -> None:
        """Take the next bytes. Raises: CheckpointError for a file that cannot be what the manifest says."""
        data = self._feed_head(data)
        while data:
            while self._at == self._slot.end:
                self._next()
            count = min(len(data), self._slot.end - self._at)
            if self._key in self._puts:
                self._puts[self._key](self._at - self._slot.begin, data[:count])
            self._at += count
            data = data[count:]

    def _feed_head(self, data: memoryview) -> memoryview:
        """Take the header, as far as it is there; what is behind it."""
        while data and self._slots is None:
            missing = self._head_size() - len(self._head)
            self._head += data[:missing]
            data = data[missing:]
            if len(self._head) == self._head_size():
                self._begin()
        return data

    def _head_size(self) -> int:
        if len(self._head) < LENGTH_BYTES:
            return LENGTH_BYTES
        return LENGTH_BYTES + header_size(bytes(self._head[:LENGTH_BYTES]), self._size, self._path)

    def _begin(self) -> None:
        slots = read_header(BytesIO(self._head), self._size, self._path)[1]
        check_slots(self._manifest, self._name, slots, self._path)
        self._slots = iter(slots.items())
        self._at = len(self._head)
        self._slot = Slot("", (), self._at, self._at)

    def _next(self) -> None:
        assert self._slots is not None  # which fill the file to its end
        self._key, self._slot = next(self._slots)


def into_memory(memory: memoryview) -> Put:
    """What copies a piece to its place."""

    def put(at: int, data: memoryview) -> None:
        memory[at : at + len(data)] = data

    return put
