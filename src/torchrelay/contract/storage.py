"""The few operations on storage that a run needs, and local disk as the first to offer them.

An object is either written whole (records, a checkpoint's files) or appended to (logs, events), never both. `create` is
atomic and exclusive, which is all that the commit protocol and the claims rest on; object storage (object_storage) has
the same in a conditional put.
"""

import contextlib
import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Protocol

from torchrelay.contract.errors import StorageError
from torchrelay.contract.local_files import (
    NO_LINKS,
    NO_LINKS_HINT,
    delete_folder,
    explained,
    make_durable_folder,
    sizes_in,
    sync_folder,
    writing,
)
from torchrelay.contract.settings import Json

Chunk = bytes | bytearray | memoryview
Seen = Callable[[memoryview], object]
_PIECE_BYTES = 16 << 20


class Storage(Protocol):
    """One folder of storage, named by a URL. Paths are relative to it, with forward slashes.

    Raises: StorageError when the storage fails; FileNotFoundError and FileExistsError where named.
    """

    @property
    def url(self) -> str:
        """The URL that `open_storage` takes to come back here."""

    def read(self, path: str) -> bytes:
        """The whole object. Raises: FileNotFoundError."""

    def read_from(self, path: str, offset: int, size: int | None = None) -> bytes:
        """At most `size` bytes from `offset` on, fewer or none at the end. Raises: FileNotFoundError."""

    def open(self, path: str) -> BinaryIO:
        """The object as it is now, for reading in pieces. Raises: FileNotFoundError."""

    def create(self, path: str, *chunks: Chunk, seen: Seen | None = None) -> None:
        """Write a new object, whole or not at all, durable on return. Raises: FileExistsError if the name is taken.

        `seen` is given each byte once, in order, before it is written: on disk just before, a piece at a time.
        After a StorageError the object may be there all the same: the storage took it, and its answer was lost.
        """

    def replace(self, path: str, data: bytes) -> None:
        """Write an object whether or not it exists; a reader sees the old one or the new one."""

    def append(self, path: str, data: bytes) -> None:
        """Add to the end of an object, which is made when missing. Durable and seen by others after `flush`."""

    def flush(self) -> None:
        """Write what was appended below this folder by this process and still waits. Call it before the end."""

    def size(self, path: str) -> int | None:
        """Size in bytes, or None if there is no such object."""

    def list(self, path: str) -> list[str]:
        """Names directly below a folder, sorted; empty if there is no such folder.

        A folder that has become empty is listed on local disk, and on object storage it is gone.
        """

    def contents(self, path: str) -> dict[str, dict[str, int]]:
        """For each folder directly below a folder, the objects in it and their sizes in bytes, all at one look.

        Those that are appended to are in it on local disk, and on object storage they are not.
        """

    def delete(self, path: str) -> None:
        """Remove an object, or a folder with all below it; nothing happens if it is missing."""

    def drop_uploads(self, path: str, of: Callable[[str], bool]) -> None:
        """Drop what killed processes have sent of objects that never came to be: no listing shows it, and it costs.

        Only in those folders directly below `path` of whose name `of` is true: in the others one may be under way.
        """

    def folder(self, path: str) -> "Storage":
        """The storage of a folder below this one."""


def open_storage(url: str, options: dict[str, Json] | None = None) -> Storage:
    """The storage that a URL names. A plain path, `file://` or `local://` is local disk, all else goes by fsspec.

    `options` is the spec's `storage_options:`; without it, what a launcher left in TORCHRELAY_STORAGE_OPTIONS holds.

    Raises: ConfigError for an unknown protocol, a missing driver, or secrets among the options.
    """
    protocol, separator, rest = url.partition("://")
    if not separator:
        return LocalStorage(Path(url))
    if protocol in ("file", "local"):
        return LocalStorage(Path(rest))
    from torchrelay.contract import object_storage, storage_options  # slow to load, and local runs need none of it

    if options is None:
        options = storage_options.from_environment()
    return object_storage.open_object_storage(url, options)


def on_object_storage(storage: Storage) -> bool:
    """Whether each look at it is a request over a network, so that polling had better be slow."""
    return "://" in storage.url


class LocalStorage:
    """A folder on a local or shared file system. Files and their folders are synced before a write returns."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()

    @property
    def url(self) -> str:
        return str(self.root)

    def path(self, path: str) -> Path:
        """The file behind a relative path. Raises: StorageError for a path that would climb out."""
        parts = path.split("/")
        if path.startswith("/") or ".." in parts or "\0" in path:
            raise StorageError(f"refusing the path {path!r}: it does not lie below {self.root}")
        return self.root.joinpath(*parts)

    def read(self, path: str) -> bytes:
        with explained("read", self.path(path)) as file:
            return file.read_bytes()

    def read_from(self, path: str, offset: int, size: int | None = None) -> bytes:
        with explained("read", self.path(path)) as file, file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(-1 if size is None else size)

    def open(self, path: str) -> BinaryIO:
        with explained("read", self.path(path)) as file:
            return file.open("rb")

    def create(self, path: str, *chunks: Chunk, seen: Seen | None = None) -> None:
        with writing(self.path(path)) as file:
            if file.exists():
                raise FileExistsError(errno.EEXIST, "already exists", str(file))
            temporary = self._write_temporary(file, chunks, seen)
            try:
                os.link(temporary, file)  # unlike a rename, fails when the name is taken
            except FileExistsError:
                if temporary.stat().st_nlink == 1:
                    raise
                # It was taken by this very call: NFS sent it again when the answer was lost, see open(2) on O_EXCL.
            except OSError as error:
                if error.errno in NO_LINKS:
                    raise StorageError(f"cannot create {file}: {error.strerror}{NO_LINKS_HINT}") from error
                raise
            finally:
                temporary.unlink()
            sync_folder(file.parent)

    def replace(self, path: str, data: bytes) -> None:
        with writing(self.path(path)) as file:
            self._write_temporary(file, (data,)).replace(file)
            sync_folder(file.parent)

    def append(self, path: str, data: bytes) -> None:
        with writing(self.path(path)) as file:
            make_durable_folder(file.parent)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                _write_all(descriptor, data)
            finally:
                os.close(descriptor)

    def flush(self) -> None:
        """Nothing waits here: `append` hands everything to the operating system."""

    def size(self, path: str) -> int | None:
        with explained("look at", self.path(path)) as file:
            try:
                return file.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, path: str) -> list[str]:
        with explained("list", self.path(path) if path else self.root) as folder:
            try:
                return sorted(name for name in os.listdir(folder) if not name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def contents(self, path: str) -> dict[str, dict[str, int]]:
        with explained("list", self.path(path) if path else self.root) as folder:
            return {name: sizes_in(folder / name) for name in self.list(path) if (folder / name).is_dir()}

    def delete(self, path: str) -> None:
        with explained("delete", self.path(path)) as target:
            if target.is_dir() and not target.is_symlink():
                delete_folder(target)
                return
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
                sync_folder(target.parent)  # after a crash, this must not be back while what is deleted next is gone

    def drop_uploads(self, path: str, of: Callable[[str], bool]) -> None:
        """Nothing: what is left of them here lies in the folder, and goes with it."""

    def folder(self, path: str) -> "LocalStorage":
        return LocalStorage(self.path(path))

    def _write_temporary(self, file: Path, chunks: tuple[Chunk, ...], seen: Seen | None = None) -> Path:
        make_durable_folder(file.parent)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
        try:
            for chunk in chunks:
                _write_all(descriptor, chunk, seen)
            os.fsync(descriptor)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        return temporary


def _write_all(descriptor: int, data: Chunk, seen: Seen | None = None) -> None:
    view = memoryview(data).cast("B")
    for at in range(0, len(view), _PIECE_BYTES):
        piece = view[at : at + _PIECE_BYTES]
        if seen is not None:
            seen(piece)
        while piece:
            piece = piece[os.write(descriptor, piece) :]
