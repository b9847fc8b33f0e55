"""Kills a gang of two ranks at every request of a restore, a save, a commit and a sweep on S3: `killed_on_s3.py URL`.

A point lies before and after each request that changes something, and before the first of each kind that only reads.
For each there is a process that restores, checks what it got, saves and cleans up, and kills itself there. Prints for
each: the point, and the newest step whose manifest is in the bucket then, which the next attempt must find.

All are forks of one process that has torch and botocore's models loaded, and the next attempt is the witness of the one
before, so that a point costs about half a second.
"""

import functools
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import botocore.loaders
import torch
from two_ranks import gang

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract import layout, manifest
from torchrelay.contract.layout import Writer
from torchrelay.contract.object_connection import Connection
from torchrelay.contract.storage import Storage, open_storage

URL = sys.argv[1]
OPTIONS = {"part_bytes": 8192}  # the file of tensors is larger, and so goes up in parts
DAMAGED = layout.checkpoint_folder(3, Writer(2))  # of a later writer, and so the newest for all attempts here
OLD = layout.checkpoint_folder(2, Writer(1))
LEFTOVER = f"{layout.checkpoint_folder(8, Writer(1))}/rank-00000.json"
CHANGING = ("pipe_file", "create_multipart_upload", "upload_part", "complete_multipart_upload", "delete_objects")


class Deadly:
    """Counts the requests of this process, and kills it at one of them."""

    def __init__(self, kill_at: str) -> None:
        self.points: dict[str, None] = {}
        self._kill_at, self._seen, self._lock = kill_at, Counter[str](), threading.Lock()
        self._once = Connection._once

        def request(connection: Connection, *rest: Any) -> Any:
            return self._deadly(connection, *rest)

        Connection._once = request  # type: ignore[method-assign]

    def _deadly(self, connection: Connection, method: Any, args: Any, kwargs: Any, timeout_s: float) -> Any:
        name, changes = _named(method, args, kwargs)
        with self._lock:
            self._seen[name] += 1
            point = f"{name}#{self._seen[name]}"
        if changes or point.endswith("#1"):
            self._point(f"before {point}")
        result = self._once(connection, method, args, kwargs, timeout_s)
        if changes:
            self._point(f"after {point}")
        return result

    def _point(self, point: str) -> None:
        self.points[point] = None
        if point == self._kill_at:
            os.kill(os.getpid(), signal.SIGKILL)


def _named(method: Any, args: Any, kwargs: Any) -> tuple[str, bool]:
    """What a request is called here, and whether it changes something."""
    what = args[0] if method == "call_s3" else str(method)
    deleted = kwargs.get("Delete", {}).get("Objects", [{}])[0].get("Key")
    key = str(deleted or kwargs.get("Key") or args[-1 if what != "pipe_file" else 0])
    folder, _, name = re.sub(r"step-\d+-a\d+-r\d+", "step", key).rpartition("/")
    folder = folder.rpartition("/")[2] if name.endswith(".json") else ""
    return f"{what} {folder}/{re.sub('restart-[0-9]+', 'restart', name)}", what in CHANGING


def weights(step: int) -> dict[str, torch.Tensor]:
    """A tensor for each rank to write."""
    return {name: torch.arange(4000.0) + step + number for number, name in enumerate("vw")}


def save(own: CheckpointManager, rank: int, step: int) -> None:
    own.begin(step, {"model": weights(step)}, {"rank": rank}, {}).result()


def saved(storage: Storage, writer: Writer, step: int) -> None:
    gang(storage, writer, lambda own, rank: save(own, rank, step))


def begin() -> None:
    """Two good checkpoints, and a damaged one."""
    storage = open_storage(URL, OPTIONS)
    for step in (1, 2, 3):
        saved(storage, Writer(2 if step == 3 else 1), step)
    storage.replace(f"{DAMAGED}/rank-00000.json", b"x" * (storage.size(f"{DAMAGED}/rank-00000.json") or 0))


def attempt(number: int, newest: int, kill_at: str) -> list[str]:
    """Restore, save, commit and sweep; all points that lay on the way."""

    def work(own: CheckpointManager, rank: int) -> None:
        found = own.restore()
        assert found is not None
        assert found.step == newest, f"attempt {number} found {found.step}, not {newest}"
        for name, tensor in weights(newest).items():
            assert torch.equal(found.shared["model"][name], tensor)
        save(own, rank, 10 + number)

    deadly = Deadly(kill_at)
    gang(open_storage(URL, OPTIONS), Writer(1, number), work)
    return list(deadly.points)


def prepare(storage: Storage) -> None:
    """So that each attempt passes the same points: something to mark, to sweep, and to delete by the policy."""
    storage.delete(f"{DAMAGED}/{manifest.DAMAGED}")
    storage.replace(LEFTOVER, b"{}")
    there = storage.list(OLD)
    for name, data in OLD_FILES.items():
        if name not in there:
            storage.replace(f"{OLD}/{name}", data)


def newest_in(storage: Storage) -> int:
    """The newest good step, by the names in the bucket alone."""
    connection = storage.connection  # type: ignore[attr-defined]
    names = connection.call("list", storage.url, "find", storage.key(layout.CHECKPOINTS))  # type: ignore[attr-defined]
    steps = [int(found[1]) for name in names if (found := re.search(r"/step-(\d+)-a0001-r\d+/manifest\.json$", name))]
    return max(steps)


def forked(work: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return os.waitpid(child, 0)[1]


def all_points(newest: int) -> list[str]:
    """The points of an attempt that nothing happens to."""
    end, start = os.pipe()
    assert forked(lambda: os.write(start, json.dumps(attempt(1, newest, "")).encode())) == 0
    os.close(start)
    with os.fdopen(end) as pipe:
        return list(json.loads(pipe.read()))


botocore.loaders.JSONFileLoader.load_file = functools.cache(botocore.loaders.JSONFileLoader.load_file)
begin()
here = open_storage(URL, OPTIONS)
OLD_FILES = {name: here.read(f"{OLD}/{name}") for name in here.list(OLD)}
saved(here, Writer(1), 9)
saved(here, Writer(1), 10)
prepare(here)
for number, point in enumerate([*all_points(newest_in(here)), ""], 2):
    prepare(here)
    status = forked(lambda: attempt(number, newest_in(here), point))  # noqa: B023  # called at once
    if status != (signal.SIGKILL if point else 0):
        sys.exit(f"{point}: {status}")
    print(f"{point}|{newest_in(here)}", flush=True)
damaged = [one.step for one in manifest.committed(here) if manifest.verify(here, one.folder)]
print(f"damaged|{damaged}")
