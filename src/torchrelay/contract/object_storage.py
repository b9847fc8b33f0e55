"""Object storage behind the `Storage` protocol: any fsspec URL as the home of runs.

What the pieces do: object_connection retries and explains, object_writing puts, object_reading reads by range,
object_appending lets objects grow. Nothing is cached between calls, so what others wrote is seen at once.
"""

import contextlib
import time
from collections.abc import Callable
from typing import BinaryIO

from torchrelay.contract import object_appending, object_connection, object_reading, object_writing
from torchrelay.contract.errors import StorageError
from torchrelay.contract.object_connection import Connection, connect
from torchrelay.contract.object_parts import in_parallel
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Chunk, Seen

_MOST_DELETED_AT_ONCE = 1000  # S3's own limit


def open_object_storage(url: str, options: dict[str, Json]) -> "ObjectStorage":
    """The storage of an fsspec URL. Nothing is sent yet.

    Raises: ConfigError for a missing driver, an unknown protocol, or secrets among the options.
    """
    connection, key = connect(url, options)
    return ObjectStorage(connection, key)


class ObjectStorage:
    """A folder of object storage. Safe between threads; a forked child makes a connection of its own."""

    def __init__(self, connection: Connection, root: str) -> None:
        self.connection = connection
        self.root = root

    def __reduce__(self) -> tuple[object, ...]:
        return open_object_storage, (self.url, self.connection.options)

    @property
    def url(self) -> str:
        return self.connection.where(self.root)

    def key(self, path: str) -> str:
        """The full name of an object. Raises: StorageError for a path that would climb out."""
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise StorageError(f"refusing the path {path!r}: it does not lie below {self.url}")
        return "/".join([self.root, *(part for part in parts if part not in ("", "."))])

    def read(self, path: str) -> bytes:
        return object_reading.read_whole(self.connection, self.key(path))

    def read_from(self, path: str, offset: int, size: int | None = None) -> bytes:
        key = self.key(path)
        found = object_reading.pieces_of(self.connection, key)
        if found is None:
            raise object_reading.missing(self.connection, key)
        end = object_reading.total(found)
        end = end if size is None else min(end, offset + size)
        return object_reading.read_range(self.connection, found, offset, end)

    def open(self, path: str) -> BinaryIO:
        return object_reading.open_pieces(self.connection, self.key(path))

    def create(self, path: str, *chunks: Chunk, seen: Seen | None = None) -> None:
        if seen is not None:
            for chunk in chunks:
                seen(memoryview(chunk).cast("B"))
        object_writing.put(self.connection, self.key(path), chunks, exclusive=True)

    def replace(self, path: str, data: bytes) -> None:
        object_writing.put(self.connection, self.key(path), (data,), exclusive=False)

    def append(self, path: str, data: bytes) -> None:
        object_appending.append(self.connection, self.key(path), data)

    def flush(self) -> None:
        object_appending.flush(self.connection, self.root)

    def size(self, path: str) -> int | None:
        found = object_reading.pieces_of(self.connection, self.key(path))
        return None if found is None else object_reading.total(found)

    def list(self, path: str) -> list[str]:
        key = self.key(path)
        names = {entry["name"][len(key) + 1 :].strip("/") for entry in object_reading.entries(self.connection, key)}
        return sorted(name for name in names if name and not name.startswith("."))

    def contents(self, path: str) -> dict[str, dict[str, int]]:
        key = self.key(path)
        try:
            objects = self.connection.call("list", key, "find", key, detail=True)
        except FileNotFoundError:
            return {}
        found: dict[str, dict[str, int]] = {}
        for name in objects:
            folder, _, rest = name[len(key) + 1 :].partition("/")
            if rest and "/" not in rest and not folder.startswith(".") and not rest.startswith("."):
                found.setdefault(folder, {})[rest] = int(objects[name]["size"] or 0)
        return found

    def delete(self, path: str) -> None:
        key = self.key(path)
        object_appending.forget(self.connection, key)
        deadline = time.monotonic() + self.connection.limits.retry_s
        tries = 0
        while not _delete_all(self.connection, _below(self.connection, key)):
            tries += 1
            pause_s = object_connection.pause_s(tries)
            if time.monotonic() + pause_s > deadline:
                raise StorageError(f"cannot delete {self.connection.where(key)}: the storage keeps failing")
            time.sleep(pause_s)

    def drop_uploads(self, path: str, of: Callable[[str], bool]) -> None:
        if self.connection.is_s3:  # elsewhere the storage forgets them by itself, after a week
            object_writing.drop_uploads(self.connection, self.key(path), of)

    def folder(self, path: str) -> "ObjectStorage":
        return ObjectStorage(self.connection, self.key(path))


def _below(connection: Connection, key: str) -> list[str]:
    """Full names of all objects below a key, and of that object itself."""
    try:
        return list(connection.call("list", key, "find", key))
    except FileNotFoundError:
        return []


def _delete_all(connection: Connection, names: list[str]) -> bool:
    """Whether all are gone; if not, the storage had too much to do."""
    if not connection.is_s3:
        in_parallel(lambda name: _delete_one(connection, name), names, connection.limits.parallel)
        return True
    batches = [names[start : start + _MOST_DELETED_AT_ONCE] for start in range(0, len(names), _MOST_DELETED_AT_ONCE)]
    done = [_delete_batch(connection, batch) for batch in batches]
    return all(done)


def _delete_batch(connection: Connection, names: list[str]) -> bool:
    """Up to 1000 objects of S3 in one request, which answers 200 even when it deleted nothing."""
    bucket = connection.fs.split_path(names[0])[0]
    objects = [{"Key": connection.fs.split_path(name)[1]} for name in names]
    request = {"Bucket": bucket, "Delete": {"Objects": objects, "Quiet": True}}
    answer = connection.call("delete", names[0], "call_s3", "delete_objects", **request)
    errors = answer.get("Errors") or []
    for error in errors:
        if error.get("Code") not in ("InternalError", "SlowDown", "ServiceUnavailable"):
            raise StorageError(f"cannot delete {connection.where(names[0])}: {error.get('Message', '')}")
    return not errors


def _delete_one(connection: Connection, name: str) -> None:
    with contextlib.suppress(FileNotFoundError):  # somebody else was faster, or an earlier try did it
        connection.call("delete", name, "rm_file", name)
