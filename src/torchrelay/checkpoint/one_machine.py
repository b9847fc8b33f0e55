"""Restoring on one machine: each file is read and verified by one rank, and all ranks take its bytes as they come.

The ranks go through their files together, a part at a time. Each reads a part of its own into a window that the others
map; when all have, every rank copies what it wants from all windows to where training has it. So what has a place in
training already is only written there, and takes no memory.

What has none yet, such as the moments of an optimizer that has made no step, its reader puts into an arena that all
ranks map. So a machine needs memory for one copy of it, however many ranks it has. The tensors lie in that memory; what
a rank writes into them is its own from then on.
"""

import mmap
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
import torch.distributed as dist
import xxhash

from torchrelay.checkpoint.dtypes import dtype_of, writable_bytes
from torchrelay.checkpoint.lending import Lent, addresses, borrowed
from torchrelay.checkpoint.reader import empty_tensor, no_memory, places_in_file, read_exactly
from torchrelay.checkpoint.streaming import Put, Stream, into_memory
from torchrelay.contract.errors import CheckpointError, TorchrelayError
from torchrelay.contract.manifest import Manifest, TensorEntry, check_hash, owner, reading
from torchrelay.contract.safetensors_file import DTYPES
from torchrelay.contract.storage import Storage, on_object_storage

_PART_BYTES = 16 << 20  # of a file, between two agreements
_PIECE_BYTES = 2 << 20  # read at once; stays in the processor's cache until it is hashed and copied
_PART_BYTES_FAR = 64 << 20  # read at once: one large read becomes several requests
_ALIGNMENT_BYTES = 64


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

    def parts_of(self, rank: int, most: int) -> list[tuple[str, int]]:
        """The parts in which a rank reads them: file and bytes of each."""
        sizes = {name: self.manifest.files[name].size for name in self.files_of(rank)}
        return [(name, min(most, size - at)) for name, size in sizes.items() for at in range(0, size, most)]


class ReadingTogether:
    """One rank's part in reading a checkpoint's tensors together. `places`: those that all ranks have a place for."""

    def __init__(self, source: Source, places: Mapping[str, torch.Tensor], group: dist.ProcessGroup) -> None:
        """Raises: TorchrelayError when there is not enough memory."""
        self._source, self._places, self._group = source, places, group
        far = on_object_storage(source.storage)
        most = _PART_BYTES_FAR if far else _PART_BYTES
        self._parts = [source.parts_of(rank, most) for rank in range(source.world_size)]
        self._piece = most if far else _PIECE_BYTES
        self._half = max((size for parts in self._parts for _, size in parts), default=0)  # others may read the other
        self._arenas = [_Arena(source, rank, places) for rank in range(source.world_size)]
        self._lent: list[Lent] = []
        try:
            self._lent = [Lent(2 * self._half), Lent(self._arenas[source.rank].size)]
            self._windows = {source.rank: self._lent[0].memory()}
        except OSError as error:
            self.close()
            raise no_memory(f"to restore {source.folder}", error) from None
        self._streams: dict[str, Stream] = {}

    def read(self) -> None:
        """Read this rank's files and verify all of them; take what this rank has a place for from the others'.

        Collective: yes. After a problem of any rank all end at the same part, and those that have none return.
        Raises: CheckpointError for damage, StorageError, TorchrelayError when memory runs out.
        """
        heard = addresses(self._lent, self._group, self._source.world_size)
        problem = _problem(partial(self._map, heard))
        reading_mine = self._reading()
        for number in range(max(map(len, self._parts))):
            problem = problem or _problem(lambda: next(reading_mine, None))
            if not self._all_are_well(problem):
                break
            problem = _problem(partial(self._take, number))
        reading_mine.close()
        if problem is not None:
            raise problem

    def tensors(self, wanted: Callable[[str], bool]) -> dict[str, torch.Tensor]:
        """The wanted tensors, after `read` on all ranks: in their places, or in the memory of whoever has read them."""
        entries = self._source.manifest.tensors
        found = {name: self._places[name] for name in entries if wanted(name) and name in self._places}
        rest = {name: self._shared(name, entries[name]) for name in entries if wanted(name) and name not in found}
        return found | rest

    def close(self) -> None:
        """To be called when all ranks have their tensors, or none will."""
        for lent in self._lent:
            lent.close()

    def _map(self, heard: list[list[tuple[int, int, int, int]]]) -> None:
        for rank, (window, arena) in enumerate(heard):
            if rank != self._source.rank:
                self._windows[rank] = borrowed(window, to_keep=False)
            self._arenas[rank].memory = borrowed(arena, to_keep=True)

    def _all_are_well(self, problem: Exception | None) -> bool:
        well = torch.tensor([problem is None])
        dist.all_reduce(well, dist.ReduceOp.MIN, group=self._group)
        return bool(well)

    def _reading(self) -> Generator[None, None, None]:
        """Read this rank's files into its window, and yield after each part."""
        source, number = self._source, 0
        for name in source.files_of(source.rank):
            path, entry = f"{source.folder}/{name}", source.manifest.files[name]
            hasher, stream, left = xxhash.xxh3_128(), self._stream(name), entry.size
            with reading(path), source.storage.open(path) as file:
                while left:
                    part = self._part(source.rank, number)
                    for at in range(0, len(part), self._piece):
                        piece = part[at : at + self._piece]
                        read_exactly(file, piece, path)
                        hasher.update(piece)
                        stream.feed(piece)
                    left -= len(part)
                    number += 1
                    if not left:
                        if file.read(1):
                            raise CheckpointError(f"{path} is longer than the {entry.size} bytes expected")
                        check_hash(path, hasher.hexdigest(), entry)
                    yield

    def _take(self, number: int) -> None:
        """Copy from part `number` of all other ranks what has a place here."""
        for rank, parts in enumerate(self._parts):
            if rank != self._source.rank and number < len(parts):
                self._stream(parts[number][0]).feed(self._part(rank, number))

    def _part(self, rank: int, number: int) -> memoryview:
        """Where part `number` of a rank's files lies in its window."""
        begin = number % 2 * self._half
        return memoryview(self._windows[rank])[begin : begin + self._parts[rank][number][1]]

    def _stream(self, name: str) -> Stream:
        if name not in self._streams:
            source = self._source
            puts = {
                key: into_memory(memory) for key, memory in places_in_file(source.manifest, name, self._places).items()
            }
            if source.reader(name) == source.rank:
                arena = {key: at for (file, key), at in self._arenas[source.rank].offsets.items() if file == name}
                puts |= {key: _into_lent(self._lent[1], at, source.folder) for key, at in arena.items()}
            self._streams[name] = Stream(source.manifest, name, f"{source.folder}/{name}", puts)
        return self._streams[name]

    def _shared(self, name: str, entry: TensorEntry) -> torch.Tensor:
        """A tensor in the arenas."""
        arenas = [self._arenas[self._source.reader(piece.file)] for piece in entry.pieces]
        itemsize = DTYPES[entry.dtype].itemsize
        if len(arenas) == 1 and entry.elements:
            offset = arenas[0].offsets[entry.pieces[0].file, entry.pieces[0].key]
            data = torch.frombuffer(arenas[0].memory, dtype=torch.uint8, count=entry.elements * itemsize, offset=offset)
            return data.view(dtype_of(entry.dtype)).view(entry.shape)
        tensor = empty_tensor(self._source.manifest, name)  # one that is split has to be put together
        target = writable_bytes(tensor)
        for arena, piece in zip(arenas, entry.pieces, strict=True):
            begin, end, offset = piece.start * itemsize, piece.stop * itemsize, arena.offsets[piece.file, piece.key]
            target[begin:end] = memoryview(arena.memory)[offset : offset + end - begin]
        return tensor


class _Arena:
    """Where in the memory that a rank lends lies what it reads and not all ranks have a place for."""

    def __init__(self, source: Source, rank: int, places: Mapping[str, torch.Tensor]) -> None:
        self.offsets: dict[tuple[str, str], int] = {}  # by file and key
        self.size = 0
        self.memory: mmap.mmap = mmap.mmap(-1, 1)
        for name, entry in source.manifest.tensors.items():
            if name in places or (owner(name) or 0) >= source.world_size:
                continue
            for piece in entry.pieces:
                if source.reader(piece.file) == rank:
                    self.offsets[piece.file, piece.key] = self.size
                    size = (piece.stop - piece.start) * DTYPES[entry.dtype].itemsize
                    self.size += -(-size // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES


def _into_lent(lent: Lent, begin: int, folder: str) -> Put:
    def put(at: int, data: memoryview) -> None:
        try:
            lent.write(begin + at, data)
        except OSError as error:
            raise no_memory(f"to restore {folder}", error) from None

    return put


def _problem(work: Callable[[], object]) -> Exception | None:
    try:
        work()
    except TorchrelayError as error:
        return error
    return None
