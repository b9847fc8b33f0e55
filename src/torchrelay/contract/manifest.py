"""The checkpoints of a run as files, without torch: which there are, whether they are whole, and what they contain."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import xxhash

from torchrelay.contract import layout, lineage, safetensors_file, strict_json
from torchrelay.contract.errors import CheckpointError, StorageError
from torchrelay.contract.layout import Writer
from torchrelay.contract.lineage import Fork
from torchrelay.contract.manifest_format import (
    FileEntry,
    Manifest,
    Piece,
    TensorEntry,
    owner,
    parse,
    private_prefix,
    rank_file,
)
from torchrelay.contract.safetensors_file import DTYPES, Slot
from torchrelay.contract.storage import Storage

__all__ = [
    "DAMAGED",
    "Committed",
    "Digest",
    "FileEntry",
    "Manifest",
    "Piece",
    "TensorEntry",
    "check_sizes",
    "check_slots",
    "committed",
    "committed_in",
    "damage",
    "digest",
    "newest_committed",
    "newest_good",
    "owner",
    "private_prefix",
    "rank_file",
    "read_header",
    "read_manifest",
    "reading",
    "verify",
]

logger = logging.getLogger(__name__)

Contents = Mapping[str, Mapping[str, int]]  # of each checkpoint's folder: the files' names and sizes in bytes

DAMAGED = "damaged.json"  # left in the folder of a checkpoint that a restore passed over, so that it is kept aside
READ_BYTES = 8 << 20
_MANIFEST_LIMIT_BYTES = 1 << 30
_MOST_OPEN_FILES = 64


@dataclass(frozen=True)
class Committed:
    """A checkpoint that has a manifest; whether it is whole is for `verify` to say. `folder` is below the run."""

    folder: str
    step: int
    writer: Writer

    @property
    def name(self) -> str:
        """Of the folder, among those of the run's other checkpoints."""
        return self.folder.rpartition("/")[2]


@dataclass(frozen=True)
class Digest:
    """Two hashes of what a checkpoint contains, in hexadecimal; docs/checkpoints.md says what goes into each.

    `weights` is the same whatever the world size, the attempt and the time; `state` also covers every rank's own state.
    """

    step: int
    weights: str
    state: str


def committed(storage: Storage) -> list[Committed]:
    """All committed checkpoints in a run's line, the newest first; torchrelay.contract.lineage says which those are."""
    manifests = {}
    for name in storage.list(layout.CHECKPOINTS):
        size = storage.size(f"{layout.CHECKPOINTS}/{name}/{layout.MANIFEST}")
        if size is not None:
            manifests[name] = {layout.MANIFEST: size}
    return committed_in(manifests, lineage.forks(storage))


def committed_in(contents: Contents, forks: Sequence[Fork]) -> list[Committed]:
    """The same, from what lies in the folders of the run's checkpoints, and where its attempts were sent back to.

    All that lies there can be had at one look, but where there are many ranks that takes longer than a look at each
    manifest.
    """
    found = []
    for name, files in contents.items():
        parsed = layout.parse_checkpoint_folder(name)
        if parsed is not None and layout.MANIFEST in files:
            found.append(Committed(f"{layout.CHECKPOINTS}/{name}", *parsed))
    return lineage.in_line(found, forks)


def newest_committed(storage: Storage) -> Committed | None:
    """The newest committed checkpoint, not verified: cheap enough to ask often."""
    return next(iter(committed(storage)), None)


def newest_good(storage: Storage) -> Committed | None:
    """The newest checkpoint whose every checksum holds. Reads whole checkpoints."""
    return next((one for one in committed(storage) if not verify(storage, one.folder)), None)


def read_manifest(storage: Storage, folder: str) -> Manifest:
    """The manifest of a checkpoint.

    Raises: CheckpointError if it is missing, damaged, or another checkpoint's; ConfigError if it is of a newer format.
    """
    path = f"{folder}/{layout.MANIFEST}"
    size = storage.size(path)
    if size is None:
        raise CheckpointError(f"{path} is missing: {folder} is not a checkpoint")
    if size > _MANIFEST_LIMIT_BYTES:
        raise CheckpointError(f"{path}: {size} bytes is absurdly large")
    with reading(path):
        manifest = parse(storage.read(path), path)
    expected = layout.parse_checkpoint_folder(folder.rpartition("/")[2])
    if expected is not None and expected != (manifest.step, manifest.writer):
        raise CheckpointError(f"{path}: says that it is step {manifest.step} of {manifest.writer}")
    return manifest


def verify(storage: Storage, folder: str) -> list[str]:
    """Everything that is wrong with a checkpoint, each as a line that names the file; empty if it is whole.

    Raises: StorageError if the storage cannot be read.
    """
    try:
        manifest = read_manifest(storage, folder)
    except CheckpointError as error:
        return [str(error)]
    problems = []
    for name in sorted(manifest.files):
        try:
            _verify_file(storage, folder, name, manifest)
        except CheckpointError as error:
            problems.append(str(error))
    return problems


def damage(storage: Storage, checkpoints: Sequence[Committed]) -> dict[Committed, list[str]]:
    """What is wrong with each checkpoint. Those that a run has deleted while they were read are left out."""
    found = {}
    for one in checkpoints:
        problems = verify(storage, one.folder)
        if not problems or storage.size(f"{one.folder}/{layout.MANIFEST}") is not None:
            found[one] = problems
    return found


def digest(storage: Storage, folder: str) -> Digest:
    """Hashes of a checkpoint's content, however it lies in files. Raises: CheckpointError if it is damaged."""
    problems = verify(storage, folder)
    if problems:
        raise CheckpointError("; ".join(problems))
    manifest = read_manifest(storage, folder)
    weights, state = xxhash.xxh3_128(), xxhash.xxh3_128()
    with ExitStack() as stack:
        reader = _PieceReader(storage, folder, manifest, stack)
        for name in sorted(manifest.tensors):
            entry = manifest.tensors[name]
            line = strict_json.canonical([name, entry.dtype, list(entry.shape), reader.hash(entry)]) + b"\n"
            state.update(line)
            if entry.kind == "weights":
                weights.update(line)
    for name in (layout.STATE, *(rank_file(rank, "json") for rank in range(manifest.world_size))):
        with reading(f"{folder}/{name}"):
            value = strict_json.parse(storage.read(f"{folder}/{name}"), f"{folder}/{name}")
        state.update(strict_json.canonical([name, xxhash.xxh3_128_hexdigest(strict_json.canonical(value))]) + b"\n")
    return Digest(manifest.step, weights.hexdigest(), state.hexdigest())


@contextmanager
def reading(path: str) -> Iterator[None]:
    """What goes wrong while a checkpoint's file is read, as the error that says whose fault it is.

    Raises: CheckpointError for a file that is missing, StorageError if it is there and cannot be read.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise CheckpointError(f"{path} is missing") from None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def check_sizes(folder: str, files: Mapping[str, FileEntry], found: Mapping[str, int]) -> None:
    """Raises: CheckpointError unless all files are among those found in the folder, as large as the manifest says."""
    for name, entry in files.items():
        _check_size(f"{folder}/{name}", found.get(name), entry)


def check_size(storage: Storage, path: str, entry: FileEntry) -> None:
    """Raises: CheckpointError unless a file is there and has the size that the manifest says."""
    _check_size(path, storage.size(path), entry)


def _check_size(path: str, size: int | None, entry: FileEntry) -> None:
    if size is None:
        raise CheckpointError(f"{path} is missing")
    if size != entry.size:
        raise CheckpointError(f"{path} has {size} bytes, expected {entry.size}")


def check_hash(path: str, found: str, entry: FileEntry) -> None:
    """Raises: CheckpointError unless a file's xxh3-128 is the one that the manifest says."""
    if found != entry.xxh3_128:
        raise CheckpointError(f"{path} is damaged: its xxh3-128 is {found}, expected {entry.xxh3_128}")


def read_header(file: BinaryIO, size: int, path: str) -> tuple[bytes, dict[str, Slot]]:
    """The first bytes of a safetensors file, to be hashed, and the tensors that they name. Raises: CheckpointError."""
    length = file.read(safetensors_file.LENGTH_BYTES)
    text = file.read(safetensors_file.header_size(length, size, path))
    return length + text, safetensors_file.parse_header(text, size, path)


def check_slots(manifest: Manifest, name: str, slots: dict[str, Slot], path: str) -> None:
    """Raises: CheckpointError unless a file's tensors are the pieces that the manifest says, no more and no less."""
    expected = {
        piece.key: (entry, piece) for entry in manifest.tensors.values() for piece in entry.pieces if piece.file == name
    }
    if set(expected) != set(slots):
        odd = sorted(set(expected) ^ set(slots))
        raise CheckpointError(f"{path}: missing or unknown tensors: {', '.join(odd)[:200]}")
    for key, (entry, piece) in expected.items():
        dtype, slot = DTYPES[entry.dtype], slots[key]
        if (slot.stored, slot.end - slot.begin) != (dtype.stored, (piece.stop - piece.start) * dtype.itemsize):
            raise CheckpointError(f"{path}: {key[:80]!r} is {slot.stored} {list(slot.shape)}, expected {entry.dtype}")


def _verify_file(storage: Storage, folder: str, name: str, manifest: Manifest) -> None:
    path, entry = f"{folder}/{name}", manifest.files[name]
    check_size(storage, path, entry)
    hasher = xxhash.xxh3_128()
    with reading(path), storage.open(path) as file:
        while chunk := file.read(READ_BYTES):
            hasher.update(chunk)
        check_hash(path, hasher.hexdigest(), entry)
        file.seek(0)
        if name.endswith(".safetensors"):
            check_slots(manifest, name, read_header(file, entry.size, path)[1], path)
        elif name.endswith(".json"):
            strict_json.parse(file.read(), path)


class _PieceReader:
    """Hashes tensors whose pieces lie in any order in any number of files, with few files open at a time."""

    def __init__(self, storage: Storage, folder: str, manifest: Manifest, stack: ExitStack) -> None:
        self._storage, self._folder, self._manifest, self._stack = storage, folder, manifest, stack
        self._open: dict[str, tuple[BinaryIO, dict[str, Slot]]] = {}

    def hash(self, entry: TensorEntry) -> str:
        """xxh3-128 of a tensor's bytes in row-major order."""
        hasher = xxhash.xxh3_128()
        for piece in entry.pieces:
            file, slots = self._file(piece.file)
            slot = slots[piece.key]
            with reading(f"{self._folder}/{piece.file}"):
                file.seek(slot.begin)
                left = slot.end - slot.begin
                while left:
                    chunk = file.read(min(left, READ_BYTES))
                    if not chunk:
                        raise CheckpointError(f"{self._folder}/{piece.file} ended early")
                    hasher.update(chunk)
                    left -= len(chunk)
        return hasher.hexdigest()

    def _file(self, name: str) -> tuple[BinaryIO, dict[str, Slot]]:
        if name not in self._open:
            if len(self._open) >= _MOST_OPEN_FILES:
                self._stack.close()
                self._open.clear()
            path = f"{self._folder}/{name}"
            with reading(path):
                file = self._stack.enter_context(self._storage.open(path))
                self._open[name] = file, read_header(file, self._manifest.files[name].size, path)[1]
        return self._open[name]
