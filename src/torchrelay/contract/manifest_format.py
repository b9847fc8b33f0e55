"""A checkpoint's manifest.json: its model, its bytes, and reading it without trusting it.

The bytes are canonical JSON whose `checksum` is the xxh3-128 of the same JSON without it, so that every changed byte is
found. docs/checkpoints.md describes each field.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import xxhash

from torchrelay.contract import strict_json
from torchrelay.contract.errors import CheckpointError, ConfigError
from torchrelay.contract.layout import MANIFEST, STATE, Writer
from torchrelay.contract.safetensors_file import DTYPES, is_count, parse_shape
from torchrelay.contract.settings import Json

FORMAT = "torchrelay checkpoint"
VERSION = 1
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}\Z")  # no folder, no hidden file, no way out
_HASH = re.compile(r"[0-9a-f]{32}\Z")
_RANK_PREFIX = re.compile(r"rank/(\d{5,9})/")
_LATEST_S = 253402300800.0  # the year 10000
_NOT_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
_FIELDS = {"format", "version", "checksum", "step", "attempt", "restart", "world_size", "samples", "created_at"} | {
    "about",
    "metrics",
    "files",
    "tensors",
}


@dataclass(frozen=True)
class FileEntry:
    """One file of a checkpoint."""

    size: int
    xxh3_128: str


@dataclass(frozen=True)
class Piece:
    """Elements [start, stop) of a flattened tensor, which are all that `file` holds under `key`."""

    file: str
    key: str
    start: int
    stop: int


@dataclass(frozen=True)
class TensorEntry:
    """One tensor. Its pieces follow each other without a gap; a tensor without elements has one piece too."""

    dtype: str
    shape: tuple[int, ...]
    kind: Literal["weights", "state"]
    pieces: tuple[Piece, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        return self.elements * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class Manifest:
    """What a checkpoint is and which files and tensors it has. `created_at`: seconds since the epoch."""

    step: int
    writer: Writer
    world_size: int
    created_at: float
    files: Mapping[str, FileEntry]
    tensors: Mapping[str, TensorEntry]
    samples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Json] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files together, without the manifest."""
        return sum(entry.size for entry in self.files.values())


def rank_file(rank: int, extension: Literal["safetensors", "json"]) -> str:
    """Name of a rank's file of tensors, or of its private state."""
    return f"rank-{rank:05d}.{extension}"


def private_prefix(rank: int) -> str:
    """What the names of a rank's own tensors begin with."""
    return f"rank/{rank:05d}/"


def owner(name: str) -> int | None:
    """The rank that a tensor is private to, or None if all ranks share it."""
    match = _RANK_PREFIX.match(name)
    return int(match[1]) if match else None


def dump(manifest: Manifest) -> bytes:
    """The bytes of manifest.json."""
    fields: dict[str, Json] = {
        "format": FORMAT,
        "version": VERSION,
        "step": manifest.step,
        "attempt": manifest.writer.attempt,
        "restart": manifest.writer.restart,
        "world_size": manifest.world_size,
        "samples": manifest.samples,
        "created_at": manifest.created_at,
        "about": dict(manifest.about),
        "metrics": {name: _number_to_json(value) for name, value in manifest.metrics.items()},
        "files": {name: dataclasses.asdict(entry) for name, entry in manifest.files.items()},
        "tensors": {name: tensor_to_json(entry) for name, entry in manifest.tensors.items()},
    }
    fields["checksum"] = xxhash.xxh3_128_hexdigest(strict_json.canonical(fields))
    return strict_json.canonical(fields) + b"\n"


def parse(data: bytes, where: str) -> Manifest:
    """The manifest in `data`.

    Raises: CheckpointError, naming `where`, unless it is sound in every part. ConfigError for a sound one that a newer
    torchrelay wrote: it is no damage, which would have a run go on from an older checkpoint.
    """
    fields = strict_json.parse(data, where)
    if not isinstance(fields, dict) or fields.get("format") != FORMAT:
        raise CheckpointError(f"{where}: not a checkpoint's manifest")
    _check_checksum(fields, data, where)
    version: Any = fields.get("version")
    if is_count(version) and version > VERSION:
        raise ConfigError(
            f"{where}: a newer torchrelay wrote it, in format {version}, and this one reads {VERSION}: "
            "go on with that release, or delete what it wrote with it"
        )
    if not is_count(version) or version != VERSION:
        raise CheckpointError(f"{where}: there is no format version {str(version)[:40]}")
    try:
        return _manifest(fields)
    except (CheckpointError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{where}: {error}") from None


def tensor_to_json(entry: TensorEntry) -> dict[str, Json]:
    """A tensor's entry as it stands in the manifest, and in what a rank reports."""
    pieces: list[Json] = [[piece.file, piece.key, piece.start, piece.stop] for piece in entry.pieces]
    return {"dtype": entry.dtype, "shape": list(entry.shape), "kind": entry.kind, "pieces": pieces}


def tensor_from_json(name: str, value: Any) -> TensorEntry:
    """The entry that `tensor_to_json` made. Raises: CheckpointError for one that cannot be."""
    where = f"tensor {name[:80]!r}"
    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "kind", "pieces"}:
        raise CheckpointError(f"{where}: not a tensor's entry")
    if not isinstance(value["dtype"], str) or value["dtype"] not in DTYPES:
        raise CheckpointError(f"{where}: unknown dtype {str(value['dtype'])[:40]!r}")
    if value["kind"] not in ("weights", "state"):
        raise CheckpointError(f"{where}: unknown kind {str(value['kind'])[:40]!r}")
    shape = parse_shape(value["shape"], where)
    pieces = _pieces(value["pieces"], math.prod(shape), where)
    return TensorEntry(value["dtype"], shape, value["kind"], pieces)


def files_from_json(value: Any) -> dict[str, FileEntry]:
    """Files with sizes and checksums. Raises: CheckpointError."""
    return {name: _file(name, entry) for name, entry in _object(value, "files").items()}


def _check_checksum(fields: dict[str, Any], data: bytes, where: str) -> None:
    claimed = fields.get("checksum")
    rest = {key: value for key, value in fields.items() if key != "checksum"}
    try:
        holds = data == strict_json.canonical(fields) + b"\n"
        holds = holds and claimed == xxhash.xxh3_128_hexdigest(strict_json.canonical(rest))
    except (ValueError, RecursionError):
        holds = False
    if not holds:
        raise CheckpointError(f"{where}: the checksum does not hold")


def _manifest(fields: dict[str, Any]) -> Manifest:
    if set(fields) != _FIELDS:
        odd = ", ".join(sorted(set(fields) ^ _FIELDS))
        raise CheckpointError(f"missing or unknown fields: {odd[:200]}")
    for name in ("step", "attempt", "restart", "world_size"):
        _count(fields[name], name)
    tensors = {name: tensor_from_json(name, entry) for name, entry in _object(fields["tensors"], "tensors").items()}
    manifest = Manifest(
        step=fields["step"],
        writer=Writer(fields["attempt"], fields["restart"]),
        world_size=fields["world_size"],
        created_at=_moment(fields["created_at"], "created_at"),
        files=files_from_json(fields["files"]),
        tensors=tensors,
        samples=None if fields["samples"] is None else _count(fields["samples"], "samples"),
        metrics={key: _number(value, key) for key, value in _object(fields["metrics"], "metrics").items()},
        about=_object(fields["about"], "about"),
    )
    _check_files(manifest)
    _check_tensors(manifest)
    return manifest


def _check_files(manifest: Manifest) -> None:
    if not 1 <= manifest.world_size <= len(manifest.files):
        raise CheckpointError(f"world size {manifest.world_size} with {len(manifest.files)} files")
    needed = [STATE, *(rank_file(rank, "json") for rank in range(manifest.world_size))]
    missing = [name for name in needed if name not in manifest.files]
    if missing:
        raise CheckpointError(f"{missing[0]} is not among the files")


def _check_tensors(manifest: Manifest) -> None:
    """Every piece has a place of its own in a file that is large enough, so that memory is bounded by the files."""
    used: dict[str, int] = dict.fromkeys(manifest.files, 0)
    keys: set[tuple[str, str]] = set()
    for name, entry in manifest.tensors.items():
        private_to = owner(name)
        if private_to is not None and private_to >= manifest.world_size:
            raise CheckpointError(f"tensor {name[:80]!r}: there is no such rank")
        for piece in entry.pieces:
            if (piece.file, piece.key) in keys:
                raise CheckpointError(f"tensor {name[:80]!r}: {piece.key[:80]!r} of {piece.file} is used twice")
            keys.add((piece.file, piece.key))
            if piece.file not in used or not piece.file.endswith(".safetensors"):
                raise CheckpointError(f"tensor {name[:80]!r}: {piece.file[:80]!r} is not among the files")
            used[piece.file] += (piece.stop - piece.start) * DTYPES[entry.dtype].itemsize
    for file, size in used.items():
        if size > manifest.files[file].size:
            raise CheckpointError(f"{file}: {manifest.files[file].size} bytes cannot hold tensors of {size}")


def _pieces(value: Any, elements: int, where: str) -> tuple[Piece, ...]:
    if not isinstance(value, list) or not value:
        raise CheckpointError(f"{where}: no pieces")
    pieces, end = [], 0
    for item in value:
        if not (isinstance(item, list) and [type(part) for part in item] == [str, str, int, int]):
            raise CheckpointError(f"{where}: not a piece: {str(item)[:80]}")
        piece = Piece(*item)
        if piece.start != end or piece.stop < piece.start or (piece.stop == piece.start and elements):
            raise CheckpointError(f"{where}: a piece [{piece.start}, {piece.stop}), expected one from {end} on")
        pieces.append(piece)
        end = piece.stop
    if end != elements:
        raise CheckpointError(f"{where}: the pieces end at {end} of {elements} elements")
    return tuple(pieces)


def _file(name: str, value: Any) -> FileEntry:
    if not _FILE_NAME.match(name) or name == MANIFEST:
        raise CheckpointError(f"refusing the file name {name[:80]!r}")
    if not isinstance(value, dict) or set(value) != {"size", "xxh3_128"}:
        raise CheckpointError(f"{name}: not a file's entry")
    if not isinstance(value["xxh3_128"], str) or not _HASH.match(value["xxh3_128"]):
        raise CheckpointError(f"{name}: not an xxh3-128 checksum")
    return FileEntry(_count(value["size"], name), value["xxh3_128"])


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{name}: not a JSON object")
    return value


def _count(value: Any, name: str) -> int:
    if not is_count(value):
        raise CheckpointError(f"{name[:80]}: not a whole number from 0 on: {str(value)[:40]}")
    return int(value)


def _moment(value: Any, name: str) -> float:
    """Seconds since the epoch, of a year that a calendar can have."""
    at = _number(value, name)
    if not 0 <= at < _LATEST_S:
        raise CheckpointError(f"{name}: not a time: {str(value)[:40]}")
    return at


def _number_to_json(value: float) -> Json:
    """JSON has no NaN and no infinity; they are written as texts."""
    return float(value) if math.isfinite(value) else str(float(value))


def _number(value: Any, name: str) -> float:
    if isinstance(value, str) and value in _NOT_FINITE:
        return _NOT_FINITE[value]
    if type(value) not in (int, float):
        raise CheckpointError(f"{name[:80]}: not a number")
    return float(value)
