"""Writing one rank's part of a checkpoint: its share of what all ranks have, and what is its own."""

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import torch
import xxhash

from torchrelay.checkpoint.dtypes import dtype_name
from torchrelay.checkpoint.pending import Pending
from torchrelay.checkpoint.shares import Shape, Share, assign
from torchrelay.checkpoint.staging import Staging
from torchrelay.checkpoint.state import Encoded
from torchrelay.contract import safetensors_file, strict_json
from torchrelay.contract.errors import CheckpointError
from torchrelay.contract.layout import MANIFEST, STATE
from torchrelay.contract.manifest import FileEntry, Piece, TensorEntry, rank_file, read_manifest
from torchrelay.contract.safetensors_file import DTYPES
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Chunk, Storage


@dataclass(frozen=True)
class Plan:
    """Which rank writes what of the shared tensors: the same on all ranks, without a word between them."""

    shares: list[list[Share]]
    entries: dict[str, TensorEntry]

    @property
    def fingerprint(self) -> str:
        """A hash by which ranks find out that their states are not alike."""
        plain: list[Json] = [
            [name, entry.dtype, list(entry.shape), entry.kind] for name, entry in sorted(self.entries.items())
        ]
        return xxhash.xxh3_128_hexdigest(strict_json.canonical(plain))


@dataclass
class Written:
    """The files that this rank has begun to write, and what is in those that are complete."""

    folder: str
    begun: list[str] = field(default_factory=list)
    files: dict[str, FileEntry] = field(default_factory=dict)


def plan(shared: Encoded, world_size: int, from_rank_0: Collection[str]) -> Plan:
    """Assign every shared tensor, in pieces where that makes the ranks' shares equal, to the ranks."""
    shapes = {name: Shape(tensor.numel(), tensor.element_size()) for name, tensor in shared.tensors.items()}
    shares = assign(shapes, world_size, from_rank_0)
    pieces: dict[str, list[Piece]] = {name: [] for name in shapes}
    for rank, own in enumerate(shares):
        for share in own:
            pieces[share.name].append(_piece(rank, share, shapes[share.name].elements))
    entries = {
        name: _entry(tensor, "weights" if name in shared.weights else "state", tuple(pieces[name]))
        for name, tensor in shared.tensors.items()
    }
    return Plan(shares, entries)


def private_entries(private: Encoded, rank: int) -> dict[str, TensorEntry]:
    """The manifest's entries of a rank's own tensors, each whole in the rank's own file."""
    return {
        name: _entry(tensor, "state", (_piece(rank, Share(name, 0, tensor.numel()), tensor.numel()),))
        for name, tensor in private.tensors.items()
    }


@dataclass(frozen=True)
class Staged:
    """What one rank writes, in host memory that training does not touch."""

    rank: int
    agreed: Plan
    head: bytes  # of the file of tensors
    data: memoryview  # the tensors behind it
    shared_json: Json
    private_json: Json
    private: dict[str, TensorEntry]


def stage(staging: Staging, rank: int, agreed: Plan, state: tuple[Encoded, Encoded]) -> Staged:
    """Copy a rank's part of a state. `state`: what all ranks have, and what is the rank's own."""
    shared, private = state
    entries = private_entries(private, rank)
    own = _own(rank, agreed, state, entries)
    head = safetensors_file.header([_slot(rank, share, entry) for share, _, entry in own])
    data = staging.fill((tensor, share.start, share.stop) for share, tensor, _ in own)
    return Staged(rank, agreed, head, data, shared.json if rank == 0 else None, private.json, entries)


def staged_bytes(rank: int, agreed: Plan, private: Encoded) -> int:
    """How many bytes of tensors `stage` would copy."""
    itemsize = {name: DTYPES[entry.dtype].itemsize for name, entry in agreed.entries.items()}
    shared = sum((share.stop - share.start) * itemsize[share.name] for share in agreed.shares[rank])
    return shared + sum(tensor.numel() * tensor.element_size() for tensor in private.tensors.values())


def write_rank(storage: Storage, written: Written, staged: Staged) -> None:
    """Write a rank's files, each durable when this returns. Raises: StorageError."""
    files: dict[str, list[Chunk]] = {
        rank_file(staged.rank, "safetensors"): [staged.head, staged.data],
        rank_file(staged.rank, "json"): [strict_json.in_order(staged.private_json)],
    }
    if staged.rank == 0:
        files[STATE] = [strict_json.in_order(staged.shared_json)]
    under_way = [Pending(partial(_create, storage, written, *file), f"writing {file[0]}") for file in files.items()]
    for one in under_way:
        one.wait()  # for all, also when one fails: nothing may come any more when what is there is deleted
    for one in under_way:
        one.result()


def _own(
    rank: int, agreed: Plan, state: tuple[Encoded, Encoded], entries: dict[str, TensorEntry]
) -> list[tuple[Share, torch.Tensor, TensorEntry]]:
    """What a rank's file holds, in order: the larger elements first, which keeps all of them aligned."""
    shared, private = state
    own = [(share, shared.tensors[share.name], agreed.entries[share.name]) for share in agreed.shares[rank]]
    own += [(Share(name, 0, entry.elements), private.tensors[name], entry) for name, entry in entries.items()]
    return sorted(own, key=lambda part: (-DTYPES[part[2].dtype].itemsize, part[0].name, part[0].start))


def _create(storage: Storage, written: Written, name: str, chunks: list[Chunk]) -> None:
    path = f"{written.folder}/{name}"
    written.begun.append(name)
    try:
        entry = _write(storage, path, chunks)
    except FileExistsError:
        if storage.size(f"{written.folder}/{MANIFEST}") is None:
            storage.delete(path)  # left by an earlier try of this gang whose cleaning failed too
            entry = _write(storage, path, chunks)
        else:
            entry = _committed(storage, written.folder, name, chunks)
    written.files[name] = entry


def _write(storage: Storage, path: str, chunks: list[Chunk]) -> FileEntry:
    """What is hashed just before it is written is read from memory once, not twice."""
    hasher = xxhash.xxh3_128()
    storage.create(path, *chunks, seen=hasher.update)
    return FileEntry(sum(len(chunk) for chunk in chunks), hasher.hexdigest())


def _committed(storage: Storage, folder: str, name: str, chunks: list[Chunk]) -> FileEntry:
    """A file that an earlier try has committed although it failed: the answer to its manifest was lost.

    Raises: CheckpointError if it is not the same.
    """
    hasher = xxhash.xxh3_128()
    for chunk in chunks:
        hasher.update(chunk)
    entry = FileEntry(sum(len(chunk) for chunk in chunks), hasher.hexdigest())
    if read_manifest(storage, folder).files.get(name) != entry:
        raise CheckpointError(f"{folder} is committed already, and a checkpoint never changes")
    return entry


def _entry(tensor: torch.Tensor, kind: Literal["weights", "state"], pieces: tuple[Piece, ...]) -> TensorEntry:
    name = dtype_name(tensor.dtype)
    assert name is not None  # the encoder has refused all others
    return TensorEntry(name, tuple(tensor.shape), kind, pieces)


def _piece(rank: int, share: Share, elements: int) -> Piece:
    """A whole tensor has its own name as its key; a part also says which elements it is."""
    whole = (share.start, share.stop) == (0, elements)
    key = share.name if whole else f"{share.name}@{share.start}-{share.stop}"
    return Piece(rank_file(rank, "safetensors"), key, share.start, share.stop)


def _slot(rank: int, share: Share, entry: TensorEntry) -> tuple[str, str, tuple[int, ...]]:
    dtype = DTYPES[entry.dtype]
    piece = _piece(rank, share, math.prod(entry.shape))
    shape = entry.shape if piece.key == share.name else (share.stop - share.start,)
    return piece.key, dtype.stored, dtype.stored_shape(shape)
