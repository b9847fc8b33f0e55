"""The code snapshot: the folder that a job is submitted from, kept with the run and fetched when a pod starts."""

import contextlib
import io
import os
import shutil
import subprocess
import tarfile
from pathlib import Path, PurePosixPath

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.storage import Storage

FOLDER = "code"
ENDING = ".tar.gz"
LARGEST_BYTES = 64 << 20
_OWN_BITS, _MODE_BITS = 0o600, 0o755  # what a file's owner can always do, and what is kept of its mode
_LEFT_OUT = {
    ".git",
    ".venv",
    "venv",
    "__pycache__",
    "node_modules",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    "runs",
}


def snapshot_file(attempt: int) -> str:
    """Path below the run of the code of what was submitted as this attempt, and of all attempts of that job."""
    return f"{FOLDER}/a{attempt:04d}{ENDING}"


def store(storage: Storage, path: str, folder: Path) -> str:
    """Pack the folder and keep it with the run; from a machine without it, what was submitted last is taken again.

    Returns what was done, for people. Raises: ConfigError for a folder that is too large; StorageError.
    """
    if folder.is_dir():
        data = packed(folder)
        says = f"copied the code of {folder}, {len(data) / 2**20:.1f} MiB"
    else:
        earlier = [name for name in storage.list(FOLDER) if name.endswith(ENDING)]
        if not earlier:
            raise ConfigError(
                f"code: the job's folder {folder} is not on this machine, and the run has no snapshot of it; name the "
                "folder with --workdir DIR, or write code: live for what is in the image"
            )
        data = storage.read(f"{FOLDER}/{earlier[-1]}")
        says = f"goes on with the code of {earlier[-1]}: {folder} is not on this machine"
    with contextlib.suppress(FileExistsError):
        storage.create(path, data)
    return says


def packed(folder: Path) -> bytes:
    """What git tracks or would, or else everything but caches, as a compressed archive. Raises: ConfigError."""
    files = _of_git(folder)
    files = _all_files(folder) if files is None else files
    size = sum((folder / name).stat().st_size for name in files)
    if size > LARGEST_BYTES:
        raise ConfigError(
            f"code: {folder} holds more than the {LARGEST_BYTES >> 20} MiB of a snapshot; submit from the folder of "
            "the code, leave data out with .gitignore, or build the code into the image (code: live)"
        )
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in files:
            try:
                archive.add((folder / name).resolve(), name, recursive=False)  # what a link leads to may not be there
            except OSError as error:
                raise ConfigError(
                    f"code: cannot read {folder / name}: {error.strerror}; make it readable, leave it out with "
                    ".gitignore, or build the code into the image (code: live)"
                ) from None
    return buffer.getvalue()


def fetch(storage: Storage, path: str, folder: Path) -> None:
    """Unpack the snapshot. Raises: ConfigError if there is none or it cannot be written; StorageError."""
    try:
        data = storage.read(path)
    except FileNotFoundError:
        raise ConfigError(f"the run {storage.url} has no code snapshot; submit it with torchrelay") from None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _unpack(data, folder)
    except (tarfile.TarError, EOFError) as error:
        raise ConfigError(f"{storage.url}/{path} is damaged ({error}); `torchrelay resume` makes a new one") from error
    except OSError as error:
        raise ConfigError(f"kubernetes.workdir: cannot write {folder}: {error.strerror or error}") from error


def _unpack(data: bytes, folder: Path) -> None:
    """Files within the folder, which is all that `packed` makes. Python has tarfile's filters from 3.11.4 on only."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if not member.isreg() or name.is_absolute() or ".." in name.parts:
                raise tarfile.TarError(f"{member.name!r} is no file within it")
            source, target = archive.extractfile(member), folder / name
            assert source is not None  # which it is for links and folders
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as file:
                shutil.copyfileobj(source, file)
            target.chmod(_OWN_BITS | member.mode & _MODE_BITS)


def _of_git(folder: Path) -> list[str] | None:
    argv = ["git", "-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(argv, capture_output=True, check=False)
    except OSError:
        return None
    if done.returncode != 0:
        return None
    names = {name for name in done.stdout.decode(errors="surrogateescape").split("\0") if name}
    return sorted(name for name in names if (folder / name).is_file())


def _all_files(folder: Path) -> list[str]:
    """Everything but caches, as far as a snapshot goes: a home folder is not walked to its end to be refused."""
    found, size = [], 0
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(set(folders) - _LEFT_OUT)
        files = [path for path in (Path(root) / name for name in names) if path.is_file()]
        found += [str(path.relative_to(folder)) for path in files]
        size += sum(path.stat().st_size for path in files)
        if size > LARGEST_BYTES:
            break
    return sorted(found)
