"""The safetensors container, without torch: an 8-byte length, a JSON header, and the tensors' bytes.

Written here because a checkpoint's tensors go straight from memory to storage and back, without the copies that the
library's functions make. What is written is read by every safetensors tool. Format:
https://github.com/huggingface/safetensors#format
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from torchrelay.contract import strict_json
from torchrelay.contract.errors import CheckpointError
from torchrelay.contract.settings import Json

LENGTH_BYTES = 8  # little-endian size of the header that follows
HEADER_LIMIT_BYTES = 100_000_000  # the library's own limit
_LARGEST = 2**63 - 1  # torch counts elements and bytes in int64
_MOST_DIMENSIONS = 64


@dataclass(frozen=True)
class Dtype:
    """How elements of one dtype are stored: the safetensors name, how many numbers an element is, bytes an element."""

    stored: str
    numbers: int
    itemsize: int

    def stored_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the stored numbers: a complex element is two of them, as a last dimension."""
        return (*shape, self.numbers) if self.numbers > 1 else shape


# A checkpoint's names for dtypes. Where not every safetensors release has the dtype, the bytes are stored under one
# that each of them knows: complex numbers as pairs of reals, rare 8-bit floats as bytes.
DTYPES: dict[str, Dtype] = {
    "BOOL": Dtype("BOOL", 1, 1),
    "U8": Dtype("U8", 1, 1),
    "I8": Dtype("I8", 1, 1),
    "U16": Dtype("U16", 1, 2),
    "I16": Dtype("I16", 1, 2),
    "U32": Dtype("U32", 1, 4),
    "I32": Dtype("I32", 1, 4),
    "U64": Dtype("U64", 1, 8),
    "I64": Dtype("I64", 1, 8),
    "F8_E4M3": Dtype("F8_E4M3", 1, 1),
    "F8_E5M2": Dtype("F8_E5M2", 1, 1),
    "F8_E4M3FNUZ": Dtype("U8", 1, 1),
    "F8_E5M2FNUZ": Dtype("U8", 1, 1),
    "F8_E8M0": Dtype("U8", 1, 1),
    "F16": Dtype("F16", 1, 2),
    "BF16": Dtype("BF16", 1, 2),
    "F32": Dtype("F32", 1, 4),
    "F64": Dtype("F64", 1, 8),
    "C32": Dtype("F16", 2, 4),
    "C64": Dtype("F32", 2, 8),
    "C128": Dtype("F64", 2, 16),
}
_STORED_ITEMSIZE = {d.stored: d.itemsize for d in DTYPES.values() if d.numbers == 1}


@dataclass(frozen=True)
class Slot:
    """One tensor of a file. `begin` and `end` are byte offsets from the start of the file."""

    stored: str
    shape: tuple[int, ...]
    begin: int
    end: int


def header(slots: Iterable[tuple[str, str, tuple[int, ...]]]) -> bytes:
    """Length and header of a file whose tensors follow in the order of `slots`: (key, stored dtype, shape)."""
    entries: dict[str, Json] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for key, stored, shape in slots:
        end = offset + math.prod(shape) * _STORED_ITEMSIZE[stored]
        entries[key] = {"dtype": stored, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = strict_json.canonical(entries)
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8
    return len(text).to_bytes(LENGTH_BYTES, "little") + text


def header_size(length: bytes, file_size: int, where: str) -> int:
    """Size of the header, from a file's first 8 bytes. Raises: CheckpointError if it cannot fit in the file."""
    size = int.from_bytes(length, "little")
    if len(length) != LENGTH_BYTES or size > min(HEADER_LIMIT_BYTES, file_size - LENGTH_BYTES):
        raise CheckpointError(f"{where}: not a safetensors file: its header does not fit in {file_size} bytes")
    return size


def parse_header(text: bytes, file_size: int, where: str) -> dict[str, Slot]:
    """The tensors of a file, by key, in the order of their bytes.

    Raises: CheckpointError unless they fill the file without a gap or an overlap.
    """
    entries = strict_json.parse(text, where)
    if not isinstance(entries, dict):
        raise CheckpointError(f"{where}: the header is not a JSON object")
    entries.pop("__metadata__", None)
    start = LENGTH_BYTES + len(text)
    slots = {key: _slot(entry, start, f"{where}: {key[:80]!r}") for key, entry in entries.items()}
    ordered = dict(sorted(slots.items(), key=lambda item: (item[1].begin, item[1].end)))
    offset = start
    for key, slot in ordered.items():
        if slot.begin != offset:
            raise CheckpointError(f"{where}: {key[:80]!r} begins at byte {slot.begin}, expected {offset}")
        offset = slot.end
    if offset != file_size:
        raise CheckpointError(f"{where}: the tensors end at byte {offset}, the file at {file_size}")
    return ordered


def _slot(entry: object, start: int, where: str) -> Slot:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{where}: not a tensor's entry")
    stored, offsets = entry["dtype"], entry["data_offsets"]
    if not isinstance(stored, str) or stored not in _STORED_ITEMSIZE:
        raise CheckpointError(f"{where}: unknown dtype {str(stored)[:40]!r}")
    shape = parse_shape(entry["shape"], where)
    size = math.prod(shape) * _STORED_ITEMSIZE[stored]
    if not (isinstance(offsets, list) and len(offsets) == 2 and all(is_count(offset) for offset in offsets)):
        raise CheckpointError(f"{where}: bad offsets")
    begin, end = offsets
    if end - begin != size:
        raise CheckpointError(f"{where}: {stored} of shape {list(shape)} is {size} bytes, not {end - begin}")
    return Slot(stored, shape, start + begin, start + end)


def parse_shape(value: object, where: str) -> tuple[int, ...]:
    """A shape that torch can have. Raises: CheckpointError."""
    if not (isinstance(value, list) and len(value) <= _MOST_DIMENSIONS and all(is_count(size) for size in value)):
        raise CheckpointError(f"{where}: not a shape: {str(value)[:80]}")
    if math.prod(size for size in value if size) > _LARGEST // 16:  # 16 bytes is the largest element
        raise CheckpointError(f"{where}: the shape {value} is absurdly large")
    return tuple(value)


def is_count(value: object) -> bool:
    """Whether a JSON value is a whole number that fits in an int64 and is not negative."""
    return type(value) is int and 0 <= value <= _LARGEST
