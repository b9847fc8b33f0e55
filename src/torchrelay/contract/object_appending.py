"""Appending, which object storage does not have: an object that grows is kept as segments below its name.

Appended bytes wait in memory until `flush_s` has gone by, a good piece has come together, or `flush` is called. A
writer grows its own last segment by putting it again, whole, until that is `SEGMENT_BYTES` long, and then begins the
next with an exclusive create. So when another process appends to the same object, no byte of either is lost; only
the order between the two is open. Readers see the segments, in order, as one object (object_reading).
"""

import atexit
import dataclasses
import logging
import os
import threading
from collections.abc import Callable

from torchrelay.contract import object_reading, object_writing
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.object_connection import Connection
from torchrelay.contract.object_reading import SEGMENT

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 2**20
EARLY_BYTES = 2**18  # more than this is not kept until the time is up
_EXIT_S = 15.0
MOST_WAITING_BYTES = 8 * 2**20  # with more than this, `append` first writes what waits


class Appender:
    """What this process appends to one object."""

    def __init__(self, connection: Connection, key: str) -> None:
        self.connection = connection
        self.key = key
        self.closed = False
        self._waiting = bytearray()
        self._waiting_lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._segment = ""  # key of the segment that is growing
        self._number = 0
        self._written = b""  # what it holds

    @property
    def waiting_bytes(self) -> int:
        return len(self._waiting)

    def add(self, data: bytes) -> None:
        """Keep bytes for the next flush."""
        with self._waiting_lock:
            self._waiting += data

    def flush(self) -> None:
        """Write what waits. What could not be written stays. Raises: StorageError."""
        with self._flush_lock:
            while self._waiting and not self.closed:
                with self._waiting_lock:
                    some = bytes(self._waiting[: SEGMENT_BYTES - len(self._written)])
                self._write(self._written + some)
                with self._waiting_lock:
                    del self._waiting[: len(some)]

    def discard(self) -> None:
        """Forget what waits: the object is deleted."""
        with self._waiting_lock:
            self.closed = True
            self._waiting.clear()

    def _write(self, content: bytes) -> None:
        if self._segment:
            object_writing.put(self.connection, self._segment, (content,), exclusive=False)
        else:
            self._segment = self._begin(content)
        self._written = content
        if len(content) >= SEGMENT_BYTES:
            self._segment, self._written = "", b""

    def _begin(self, content: bytes) -> str:
        """A new segment behind all others."""
        while True:
            names = [piece.key for piece in object_reading.segments(self.connection, self.key)]
            last = int(names[-1].rpartition(SEGMENT)[2]) if names else 0
            self._number = max(self._number, last) + 1
            segment = f"{self.key}/{SEGMENT}{self._number:08d}"
            try:
                object_writing.put(self.connection, segment, (content,), exclusive=True)
            except FileExistsError:
                continue  # another process was faster
            return segment


def append(connection: Connection, key: str, data: bytes) -> None:
    """Add to the end of an object, soon. Raises: StorageError, and takes nothing, when too much waits already."""
    flusher = connection.own("flusher", lambda: _Flusher(connection))
    appender: Appender = connection.appenders.setdefault(key, Appender(connection, key))
    if appender.waiting_bytes + len(data) > MOST_WAITING_BYTES:
        appender.flush()  # before anything is taken: a caller that hears of a failure comes again with the same
    appender.add(data)
    if appender.waiting_bytes > EARLY_BYTES:
        flusher.due.set()


def flush(connection: Connection, below: str | None = None) -> None:
    """Write all that waits, for objects below a key or for all. Raises: StorageError, after all were tried."""
    failure: TorchrelayError | None = None
    for key in _keys(connection, below):
        try:
            connection.appenders[key].flush()
        except TorchrelayError as error:
            failure = error
    if failure is not None:
        raise failure


def forget(connection: Connection, below: str) -> None:
    """Drop what waits for a key and for objects below it, because they are about to be deleted."""
    for key in _keys(connection, below):
        connection.appenders.pop(key).discard()


def _keys(connection: Connection, below: str | None) -> list[str]:
    keys = list(connection.appenders)
    return keys if below is None else [key for key in keys if f"{key}/".startswith(f"{below.rstrip('/')}/")]


class _Flusher:
    """The thread that writes what waits, for all objects of one connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.due = threading.Event()
        self._failing = False
        _before_threads_end(_flush_at_exit, connection, os.getpid())
        threading.Thread(target=self._run, name="torchrelay-append", daemon=True).start()

    def _run(self) -> None:
        while True:
            self.due.wait(self.connection.limits.flush_s)
            self.due.clear()
            self._flush()

    def _flush(self) -> None:
        try:
            flush(self.connection)
        except (TorchrelayError, RuntimeError, OSError) as error:
            if not self._failing:
                logger.warning("appended lines wait in memory: %s", error)
            self._failing = True
        else:
            self._failing = False


def _before_threads_end(do: Callable[..., None], *args: object) -> None:
    """Register what still needs threads: asyncio resolves names in one, and `atexit` comes after their end."""
    import concurrent.futures.thread  # noqa: F401 - registers its own end, which must come after ours

    register = getattr(threading, "_register_atexit", atexit.register)
    register(do, *args)


def _flush_at_exit(connection: Connection, pid: int) -> None:
    """The last resort: whoever appends should have called `flush`. Does not hold the exit up for long."""
    if pid != os.getpid():
        return
    connection.limits = dataclasses.replace(connection.limits, retry_s=min(connection.limits.retry_s, _EXIT_S))
    try:
        flush(connection)
    except (TorchrelayError, RuntimeError, OSError) as error:
        logger.warning("appended lines were lost: %s", error)
