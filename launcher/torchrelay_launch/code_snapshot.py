"""The code of a job as it was when it was submitted: a copy that edits afterwards do not reach.

What git tracks and what is new but not ignored is copied, as far as it is small. Everything else in the folder, such as
data sets, virtual environments and runs, is linked, so that relative paths lead where they led before. Outside a git
working tree there is no telling code from data, and the whole folder is one link.
"""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from torchrelay.contract.errors import StorageError

LARGEST_FILE_BYTES = 10 << 20
LARGEST_TOTAL_BYTES = 200 << 20


@dataclass(frozen=True)
class Snapshot:
    """What was copied. `linked`: files of git's that were too large, which an edit does reach."""

    files: int
    size_bytes: int
    linked: tuple[str, ...] = ()
    live: bool = False  # no git working tree: nothing was copied

    def __str__(self) -> str:
        if self.live:
            return "the code is not copied: its folder is no git working tree"
        large = f"; linked, since they are large: {', '.join(self.linked[:5])}" if self.linked else ""
        return f"copied {self.files} files of code, {self.size_bytes / 2**20:.1f} MiB{large}"


def take(workdir: Path, target: Path) -> Snapshot:
    """Copy the code below `workdir` to the new folder `target`. Raises: StorageError."""
    names = _listed_by_git(workdir)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if names is None:
            target.symlink_to(workdir.absolute())
            return Snapshot(0, 0, live=True)
        target.mkdir()
        snapshot = _copy(workdir, target, names)
        _link_the_rest(workdir.absolute(), target)
    except OSError as error:
        raise StorageError(f"cannot copy the code to {target}: {error.strerror or error}") from error
    return snapshot


def share(workdir: Path, snapshot: Path, target: Path) -> str:
    """Make `target` a link to one copy of the code for all runs of a sweep, taken by the first of them.

    Returns what to tell of it. Raises: StorageError.
    """
    note = str(take(workdir, snapshot)) if not (snapshot.exists() or snapshot.is_symlink()) else ""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.path.relpath(snapshot, target.parent))
    except OSError as error:
        raise StorageError(f"cannot link the code to {target}: {error.strerror or error}") from error
    return note


def _listed_by_git(workdir: Path) -> list[str] | None:
    """Tracked and new files below a folder, as paths relative to it; None outside a working tree."""
    try:
        done = subprocess.run(
            ["git", "-C", str(workdir), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True,
            check=False,
        )
    except OSError:
        return None
    return [os.fsdecode(name) for name in done.stdout.split(b"\0") if name] if done.returncode == 0 else None


def _copy(workdir: Path, target: Path, names: list[str]) -> Snapshot:
    files = size_bytes = 0
    linked = []
    for name in sorted(set(names)):
        source = workdir / name
        if not source.is_file() or source.is_symlink():
            continue  # deleted, a submodule, or a link, which is linked with the rest
        size = source.stat().st_size
        if size > LARGEST_FILE_BYTES or size_bytes + size > LARGEST_TOTAL_BYTES:
            linked.append(name)
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target / name)
        files, size_bytes = files + 1, size_bytes + size
    return Snapshot(files, size_bytes, tuple(linked))


def _link_the_rest(source: Path, target: Path) -> None:
    """Link what a folder has and its copy lacks; folders that were copied in part are gone through."""
    for entry in os.scandir(source):
        copy = target / entry.name
        if copy.is_dir() and not copy.is_symlink():
            _link_the_rest(source / entry.name, copy)
        elif not copy.exists() and not copy.is_symlink():
            copy.symlink_to(entry.path)
