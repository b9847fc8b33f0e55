"""Reading objects by range: plain ones, and those that grew by segments and are read as one."""

import errno
import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

from torchrelay.contract.object_connection import Connection, OutOfRangeError
from torchrelay.contract.object_parts import in_parallel

SEGMENT = ".seg-"  # PATH/.seg-00000001: names that begin with a dot are in no listing
_BUFFER_BYTES = 2**20


@dataclass(frozen=True)
class Piece:
    """One object, or one segment of one."""

    key: str
    size_bytes: int


def pieces_of(connection: Connection, key: str) -> list[Piece] | None:
    """What an object consists of: itself, or its segments in order. None if there is no such object."""
    if key not in connection.appenders:
        try:
            info = connection.call("look at", key, "info", key)
        except FileNotFoundError:
            return None
        if info["type"] == "file":
            return [Piece(key, int(info["size"] or 0))]
    return segments(connection, key) or None


def segments(connection: Connection, key: str) -> list[Piece]:
    """The segments of an object that is appended to, in order."""
    prefix = f"{key}/{SEGMENT}"
    found = [entry for entry in entries(connection, key) if entry["name"].startswith(prefix)]
    return [Piece(entry["name"], int(entry["size"] or 0)) for entry in sorted(found, key=lambda entry: entry["name"])]


def entries(connection: Connection, key: str) -> list[dict[str, Any]]:
    """What lies directly below a key, as fsspec tells it with full names; empty if there are none."""
    try:
        if connection.is_s3:  # its `ls` lists the parent too when it finds nothing
            found = connection.call("list", key, "lsdir", key)
        else:
            found = connection.call("list", key, "ls", key, detail=True)
    except FileNotFoundError:
        return []
    return [entry for entry in found if entry["name"].startswith(f"{key}/") and entry["name"] != f"{key}/"]


def read_whole(connection: Connection, key: str) -> bytes:
    """All of an object. One that fits into a part is read by a single request, so that it is of one version.

    Raises: FileNotFoundError.
    """
    part_bytes = connection.limits.part_bytes
    try:
        if key in connection.appenders:
            raise FileNotFoundError(key)  # noqa: TRY301 - known to have segments
        data = connection.call("read", key, "cat_file", key, start=0, end=part_bytes, size_bytes=part_bytes)
    except OutOfRangeError:
        return b""
    except FileNotFoundError:
        found = segments(connection, key)
        if not found:
            raise missing(connection, key) from None
        return read_range(connection, found, 0, total(found))
    if len(data) < part_bytes:
        return bytes(data)
    found = pieces_of(connection, key) or []
    return bytes(data) + read_range(connection, found, len(data), total(found))


def read_range(connection: Connection, found: list[Piece], start: int, end: int) -> bytes:
    """The bytes from `start` up to `end`, which must exist, of all pieces together."""
    data = bytearray(max(0, end - start))
    read_into(connection, found, start, memoryview(data))
    return bytes(data)


def read_into(connection: Connection, found: list[Piece], start: int, into: memoryview) -> None:
    """Fill `into` with the bytes from `start` on, in parallel parts."""

    def fetch(part: tuple[Piece, int, int, int]) -> None:
        piece, at, first, last = part
        wanted = last - first
        data = connection.call(
            *("read", piece.key, "cat_file", piece.key),
            start=first,
            end=last,
            size_bytes=wanted,
            check=lambda data: len(data) == wanted,
        )
        into[at : at + wanted] = data

    in_parallel(fetch, _parts(found, start, len(into), connection.limits.part_bytes), connection.limits.parallel)


def _parts(found: list[Piece], start: int, size: int, part_bytes: int) -> Iterator[tuple[Piece, int, int, int]]:
    """Piece, place in the result, first and last byte (exclusive) in the piece, of every request to send."""
    begin, end = start, start + size
    offset = 0
    for piece in found:
        first = max(0, begin - offset)
        while first < min(piece.size_bytes, end - offset):
            last = min(piece.size_bytes, end - offset, first + part_bytes)
            yield piece, offset + first - begin, first, last
            first = last
        offset += piece.size_bytes


def total(found: list[Piece]) -> int:
    """Size of all pieces together, in bytes."""
    return sum(piece.size_bytes for piece in found)


def open_pieces(connection: Connection, key: str) -> BinaryIO:
    """A seekable file over what the object is now. Raises: FileNotFoundError."""
    found = pieces_of(connection, key)
    if found is None:
        raise missing(connection, key)
    return cast("BinaryIO", io.BufferedReader(_Reader(connection, found), _BUFFER_BYTES))


def missing(connection: Connection, key: str) -> FileNotFoundError:
    """The error for an object that is not there."""
    return FileNotFoundError(errno.ENOENT, "no such object", connection.where(key))


class _Reader(io.RawIOBase):
    """Reads by range; a large read becomes parallel requests straight into the caller's buffer."""

    def __init__(self, connection: Connection, found: list[Piece]) -> None:
        super().__init__()
        self._connection = connection
        self._pieces = found
        self._size = total(found)
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        if base + offset < 0:
            raise ValueError(f"cannot seek to {base + offset}")
        self._at = base + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        wanted = max(0, min(len(into), self._size - self._at))
        read_into(self._connection, self._pieces, self._at, into[:wanted])
        self._at += wanted
        return wanted

    def readall(self) -> bytes:
        data = read_range(self._connection, self._pieces, self._at, self._size)
        self._at += len(data)
        return data
