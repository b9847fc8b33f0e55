"""Files and folders on local disk: made and deleted for good, and errors that say what to do."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from torchrelay.contract.errors import StorageError

_DELETE_TRIES = 100
_HINTS = {
    errno.ENOSPC: "; free some space there, or name another storage with --storage",
    errno.EDQUOT: "; your quota there is used up: free some space, or name another storage with --storage",
    errno.EACCES: "; check who owns it, or name another storage with --storage",
    errno.EROFS: "; it is mounted read-only: name another storage with --storage",
    errno.ENOENT: "; name another storage with --storage",
    errno.ENOTDIR: "; a part of that path is a file: name another storage with --storage",
}
NO_LINKS = {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP}  # by FUSE, exFAT and SMB
NO_LINKS_HINT = (
    "; there are no hard links in that file system, and without them two attempts could both claim a run: name another "
    "storage with --storage, for a mounted bucket its URL, such as s3:// or gs://"
)


@contextlib.contextmanager
def explained(doing: str, file: Path) -> Iterator[Path]:
    """Turn an OSError into a StorageError that says what could not be done, and what to do about it."""
    try:
        yield file
    except (FileNotFoundError, FileExistsError):
        raise
    except OSError as error:
        hint = _HINTS.get(error.errno or 0, "")
        raise StorageError(f"cannot {doing} {file}: {error.strerror or error}{hint}") from error


@contextlib.contextmanager
def writing(file: Path) -> Iterator[Path]:
    """The same for what is to be written. That its folder is gone is an error here: elsewhere it has a meaning."""
    with explained("write", file):
        try:
            yield file
        except FileNotFoundError as error:
            raise StorageError(f"cannot write {file}: its folder is gone{_HINTS[errno.ENOENT]}") from error


def sizes_in(folder: Path) -> dict[str, int]:
    """The files of a folder, which may be going."""
    found = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):
                if entry.is_file() and not entry.name.startswith("."):
                    found[entry.name] = entry.stat().st_size
    return found


def delete_folder(folder: Path) -> None:
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


def make_durable_folder(folder: Path) -> None:
    """Make a folder and sync every parent that gained an entry, so that a crash cannot lose the path to a file."""
    if folder.is_dir():
        return
    if folder.exists() and not folder.is_dir():  # looked at again: somebody else may just have made it
        raise NotADirectoryError(errno.ENOTDIR, f"{folder} is a file")
    make_durable_folder(folder.parent)
    try:
        folder.mkdir(exist_ok=True)
    except FileNotFoundError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}{_HINTS[errno.ENOENT]}") from error
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
