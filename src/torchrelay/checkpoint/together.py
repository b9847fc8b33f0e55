"""Reading a checkpoint's tensors on one machine: each byte by one rank, which verifies it, and taken over by all.

The ranks go in turns. In each, every rank that still has files to read reads a part into its slot of the window; then
all agree that this went well, and each copies what it wants out of all slots. The parts stay in the processor's cache
between being read, hashed and copied.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import zip_longest
from types import TracebackType
from typing import BinaryIO

import torch
import xxhash

from torchrelay.checkpoint.filling import Filling
from torchrelay.checkpoint.window import Window
from torchrelay.contract.errors import CheckpointError
from torchrelay.contract.manifest import Manifest, check_hash, reading
from torchrelay.contract.storage import Storage


@dataclass(frozen=True)
class Source:
    """A checkpoint in storage, and which rank reads which of its files."""

    storage: Storage
    folder: str
    manifest: Manifest
    reader: Callable[[str], int]

    def path(self, name: str) -> str:
        return f"{self.folder}/{name}"


@dataclass(frozen=True)
class _Part:
    """Bytes [start, stop) of a file."""

    file: str
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start


Turn = tuple[_Part | None, ...]  # by rank


def read_together(
    source: Source, window: Window, ranks: tuple[int, int], make: Callable[[], dict[str, torch.Tensor]]
) -> dict[str, torch.Tensor]:
    """What `make` returns, filled. `ranks`: this one, and how many there are.

    When another rank fails, it returns early, and what it returns is worth nothing: the ranks have to agree.

    Collective: yes. Raises: CheckpointError for damage that this rank sees, StorageError, PeerLostError.
    """
    rank, world_size = ranks
    first, own = _FirstError(), _Reading(source)
    tensors: dict[str, torch.Tensor] = {}
    fillings: dict[str, Filling] = {}
    with first:
        tensors = make()
        fillings = {name: Filling(source.manifest, name, source.path(name), tensors) for name in _names(source)}
    with own:
        for number, turn in enumerate(_turns(source, world_size, window.slot_bytes)):
            with first:
                own.read(turn[rank], window, number)
            if not window.agree(first.error is None):
                break
            with first:
                for reader, part in enumerate(turn):
                    if part is not None:
                        fillings[part.file].take(window.of(reader, number, part.size))
    if first.error is not None:
        raise first.error
    return tensors


class _Reading(ExitStack):
    """The files that one rank reads, part after part. None of them is good before its last part has been read."""

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = source
        self._file: BinaryIO | None = None
        self._hasher = xxhash.xxh3_128()

    def read(self, part: _Part | None, window: Window, turn: int) -> None:
        """Raises: CheckpointError, StorageError."""
        if part is None:
            return
        path, entry = self._source.path(part.file), self._source.manifest.files[part.file]
        into = window.own(turn, part.size)
        with reading(path):
            if part.start == 0:
                self.close()
                self._file = self.enter_context(self._source.storage.open(path))
                self._hasher = xxhash.xxh3_128()
            assert self._file is not None
            read_fully(self._file, into, path)
            self._hasher.update(into)
            if part.stop == entry.size:
                if self._file.read(1):
                    raise CheckpointError(f"{path} is longer than the {entry.size} bytes expected")
                check_hash(path, self._hasher.hexdigest(), entry)


def read_fully(file: BinaryIO, into: memoryview, path: str) -> None:
    """Fill memory with what comes next in a file. Raises: CheckpointError if it ends before."""
    done = 0
    while done < len(into):
        count = file.readinto(into[done:])  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{path} ended early")
        done += count


class _FirstError:
    """Keeps the first error until the other ranks have heard that there is one."""

    def __init__(self) -> None:
        self.error: BaseException | None = None

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self.error = self.error or error
        return True


def _names(source: Source) -> Iterable[str]:
    return sorted(name for name in source.manifest.files if name.endswith(".safetensors"))


def _turns(source: Source, world_size: int, most_bytes: int) -> Iterator[Turn]:
    """Who reads what in each turn; the same on all ranks. An empty file has one part too, so that it is looked at."""

    def parts(rank: int) -> Iterator[_Part]:
        for name in _names(source):
            if source.reader(name) == rank:
                size = source.manifest.files[name].size
                for start in range(0, max(size, 1), most_bytes):
                    yield _Part(name, start, min(start + most_bytes, size))

    return zip_longest(*(parts(rank) for rank in range(world_size)))
