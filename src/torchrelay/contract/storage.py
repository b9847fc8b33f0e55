"""The few operations on storage that a run needs, and local disk as the first to offer them.

An object is either written whole (records, a checkpoint's files) or appended to (logs, events), never both. `create` is
atomic and exclusive, which is all that the commit protocol and the claims rest on; object storage (object_storage) has
the same in a conditional put.
"""

import contextlib
import errno
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

from torchrelay.contract.errors import StorageError
from torchrelay.contract.settings import Json

Chunk = bytes | bytearray | memoryview
Seen = Callable[[memoryview], object]
_PIECE_BYTES = 16 << 20
_DELETE_TRIES = 100


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
        with _explained("read", self.path(path)) as file:
            return file.read_bytes()

    def read_from(self, path: str, offset: int, size: int | None = None) -> bytes:
        with _explained("read", self.path(path)) as file, file.open("rb") as opened:
            opened.seek(offset)
            return opened.read(-1 if size is None else size)

    def open(self, path: str) -> BinaryIO:
        with _explained("read", self.path(path)) as file:
            return file.open("rb")

    def create(self, path: str, *chunks: Chunk, seen: Seen | None = None) -> None:
        with _writing(self.path(path)) as file:
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
                if error.errno in _NO_LINKS:
                    raise StorageError(f"cannot create {file}: {error.strerror}{_NO_LINKS_HINT}") from error
                raise
            finally:
                temporary.unlink()
            _sync_folder(file.parent)

    def replace(self, path: str, data: bytes) -> None:
        with _writing(self.path(path)) as file:
            self._write_temporary(file, (data,)).replace(file)
            _sync_folder(file.parent)

    def append(self, path: str, data: bytes) -> None:
        with _writing(self.path(path)) as file:
            _make_durable_folder(file.parent)
            descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            try:
                _write_all(descriptor, data)
            finally:
                os.close(descriptor)

    def flush(self) -> None:
        """Nothing waits here: `append` hands everything to the operating system."""

    def size(self, path: str) -> int | None:
        with _explained("look at", self.path(path)) as file:
            try:
                return file.stat().st_size
            except (FileNotFoundError, NotADirectoryError):
                return None

    def list(self, path: str) -> list[str]:
        with _explained("list", self.path(path) if path else self.root) as folder:
            try:
                return sorted(name for name in os.listdir(folder) if not name.startswith("."))
            except (FileNotFoundError, NotADirectoryError):
                return []

    def contents(self, path: str) -> dict[str, dict[str, int]]:
        with _explained("list", self.path(path) if path else self.root) as folder:
            return {name: _sizes(folder / name) for name in self.list(path) if (folder / name).is_dir()}

    def delete(self, path: str) -> None:
        with _explained("delete", self.path(path)) as target:
            if target.is_dir() and not target.is_symlink():
                _delete_folder(target)
                return
            with contextlib.suppress(FileNotFoundError):
                target.unlink()
                _sync_folder(target.parent)  # after a crash, this must not be back while what is deleted next is gone

    def drop_uploads(self, path: str, of: Callable[[str], bool]) -> None:
        """Nothing: what is left of them here lies in the folder, and goes with it."""

    def folder(self, path: str) -> "LocalStorage":
        return LocalStorage(self.path(path))

    def _write_temporary(self, file: Path, chunks: tuple[Chunk, ...], seen: Seen | None = None) -> Path:
        _make_durable_folder(file.parent)
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


@contextlib.contextmanager
def _explained(doing: str, file: Path) -> Iterator[Path]:
    """Turn an OSError into a StorageError that says what could not be done, and what to do about it."""
    try:
        yield file
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise StorageError(f"cannot {doing} {file}: {error.strerror or error}{hint}") from error


@contextlib.contextmanager
def _writing(file: Path) -> Iterator[Path]:
    """The same for what is to be written. That its folder is gone is an error here: elsewhere it has a meaning."""
    with _explained("write", file):
        try:
            yield file
        except FileNotFoundError as error:
            raise StorageError(f"cannot write {file}: its folder is gone{_HINTS[errno.ENOENT]}") from error


_HINTS = {
    errno.ENOSPC: "; free some space there, or name another storage with --storage",
    errno.EDQUOT: "; your quota there is used up: free some space, or name another storage with --storage",
    errno.EACCES: "; check who owns it, or name another storage with --storage",
    errno.EROFS: "; it is mounted read-only: name another storage with --storage",
    errno.ENOENT: "; name another storage with --storage",
    errno.ENOTDIR: "; a part of that path is a file: name another storage with --storage",
}
_NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP}  # by FUSE, exFAT and SMB
_NO_LINKS_HINT = (
    "; there are no hard links in that file system, and without them two attempts could both claim a run: name another "
    "storage with --storage, for a mounted bucket its URL, such as s3:// or gs://"
)


def _sizes(folder: Path) -> dict[str, int]:
    """The files of a folder, which may be going."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file() and not entry.name.startswith("."):
                    found[entry.name] = entry.stat().st_size
    return found


def _delete_folder(folder: Path) -> None:
    """Delete a folder that somebody else may be deleting too, or still writing to."""
    for _ in range(_DELETE_TRIES):
        try:
            shutil.rmtree(folder)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTEMPTY):
                raise
        if not folder.exists():
            return
    raise OSError(errno.ENOTEMPTY, "it does not become empty", str(folder))


def _write_all(descriptor: int, data: Chunk, seen: Seen | None = None) -> None:
    view = memoryview(data).cast("B")
    for at in range(0, len(view), _PIECE_BYTES):
        piece = view[at : at + _PIECE_BYTES]
        if seen is not None:
            seen(piece)
        while piece:
            piece = piece[os.write(descriptor, piece) :]


def _make_durable_folder(folder: Path) -> None:
    """Make a folder and sync every parent that gained an entry, so that a crash cannot lose the path to a file."""
    if folder.is_dir():
        return
    if folder.exists() and not folder.is_dir():  # looked at again: somebody else may just have made it
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file")
    _make_durable_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}{_HINTS[errno.ENOENT]}") from error
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
