"""Kills a gang of two ranks at every point of a restore, a save, a commit and a sweep: `killed.py URL`.

A point lies before and after each operation on the storage, where a file is written but has no name yet, and before
each file or folder goes that is deleted. For each there is a process that restores, saves and cleans up, and kills
itself there; and one after it that looks at what is left. Prints a line for each: the operation, the newest good step
then, and the steps that should be there and are damaged.
"""

import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from two_ranks import gang

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract import layout, manifest
from torchrelay.contract.layout import Writer
from torchrelay.contract.retention import Retention
from torchrelay.contract.storage import LocalStorage, open_storage
from torchrelay.contract.training import Checkpoint

URL = sys.argv[1]
DAMAGED = layout.checkpoint_folder(3, Writer(2))  # of a later writer, and so the newest for all attempts here
OPERATIONS = ("create", "replace", "delete", "read", "open", "size", "list")


class Deadly:
    """Storage that kills its process at one point."""

    def __init__(self, inner: Any, kill_at: str) -> None:
        self._inner, self._kill_at = inner, kill_at
        self.points: Counter[str] = Counter()
        self._lock = threading.Lock()
        if isinstance(inner, LocalStorage):
            inner._write_temporary = self._written(inner._write_temporary)  # type: ignore[method-assign]
            os.unlink, os.rmdir = self._going(os.unlink), self._going(os.rmdir)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in OPERATIONS:
            return found

        def deadly(path: str, *rest: Any, **options: Any) -> Any:
            self._point(f"before {name} {path.rpartition('/')[2]}")
            try:
                return found(path, *rest, **options)
            finally:
                self._point(f"after {name} {path.rpartition('/')[2]}")

        return deadly

    def _written(self, write: Callable[..., Path]) -> Callable[..., Path]:
        """The point at which a file is written and has not got its name yet."""

        def deadly(file: Path, *rest: Any) -> Path:
            temporary = write(file, *rest)
            self._point(f"written {file.name}")
            return temporary

        return deadly

    def _going(self, remove: Callable[..., None]) -> Callable[..., None]:
        """The points within the deletion of a folder."""

        def deadly(path: Any, **options: Any) -> None:
            name = Path(path).name
            if not name.endswith(".tmp"):
                self._point(f"before {remove.__name__} {name}")
            remove(path, **options)

        return deadly

    def _point(self, what: str) -> None:
        with self._lock:
            what = re.sub(r"step-\d+-a\d+-r\d+", "step", what)
            self.points[what] += 1
            if f"{what}#{self.points[what]}" == self._kill_at:
                os.write(1, f"{self._kill_at}|".encode())
                os.kill(os.getpid(), signal.SIGKILL)


def save(step: int) -> Callable[[CheckpointManager, int], None]:
    state = {"model": {"w": torch.arange(5.0) + step, "v": torch.ones(7)}}
    return lambda own, rank: own.begin(step, state, {"rank": rank}, {}).result() and None


def restore_and_save(step: int) -> Callable[[CheckpointManager, int], None]:
    def work(own: CheckpointManager, rank: int) -> None:
        assert own.restore() is not None
        save(step)(own, rank)

    return work


def begin() -> None:
    """Two good checkpoints and a damaged one."""
    storage = open_storage(URL)
    for step in (1, 2, 3):
        gang(storage, Writer(2 if step == 3 else 1), save(step), keep_last=3)
    newest = f"{manifest.newest_committed(storage).folder}/rank-00000.json"  # type: ignore[union-attr]
    storage.replace(newest, b"x" * len(storage.read(newest)))


def attempt(number: int, kill_at: str) -> list[str]:
    """Restore, save, commit and sweep; all points that lay on the way, each with how often it came so far."""
    storage = open_storage(URL)
    storage.delete(f"{DAMAGED}/{manifest.DAMAGED}")  # so that each attempt has the same points: something to mark,
    Retention(storage, Writer(2), Checkpoint(keep_last=3)).apply()  # of which one is deleted by the policy
    storage.create(f"{layout.checkpoint_folder(9, Writer(1))}/rank-00000.json", b"{}")  # for the sweep
    storage.create(layout.restart_file(Writer(1, number)), b"{}")
    deadly = Deadly(storage, kill_at)
    gang(deadly, Writer(1, number), restore_and_save(10 + number))
    return [f"{what}#{count + 1}" for what, times in sorted(deadly.points.items()) for count in range(times)]


def look() -> None:
    """What a later attempt would find."""
    storage = open_storage(URL)
    good = manifest.newest_good(storage)
    damaged = [one.step for one in manifest.committed(storage) if manifest.verify(storage, one.folder)]
    os.write(1, json.dumps([good.step if good else None, damaged]).encode() + b"\n")


def forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def all_points() -> list[str]:
    """The points of an attempt that nothing happens to."""
    end, start = os.pipe()
    assert forked(lambda: os.write(start, "\n".join(attempt(1, "")).encode())) == 0
    os.close(start)
    with os.fdopen(end) as pipe:
        return pipe.read().splitlines()


if forked(begin) != 0:
    sys.exit(1)
for number, point in enumerate(all_points(), 2):
    status = forked(lambda: attempt(number, point))  # noqa: B023  # called at once
    if status != signal.SIGKILL or forked(look) != 0:
        sys.exit(f"{point}: {status}")
