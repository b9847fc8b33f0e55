"""The events file of one gang. Trouble with storage here never ends a training."""

import logging
import time

from torchrelay.contract import events
from torchrelay.contract.errors import StorageError
from torchrelay.contract.events import Event
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Storage

log = logging.getLogger(__name__)
_FLUSH_EVERY_S = 0.5
_MOST_BUFFERED = 10_000


class EventLog:
    """Appends events, several at once when they come fast."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._storage = storage
        self._path = path
        self._buffer: list[Event] = []
        self._flushed = 0.0
        self._complained = False

    def write(self, kind: str, **values: Json) -> None:
        """Add an event; it is in storage after the next `flush`, or at once when the last one is some time ago."""
        self._buffer.append({"event": kind, "t": time.time(), **values})
        if time.monotonic() - self._flushed > _FLUSH_EVERY_S:
            self.flush()

    def flush(self) -> None:
        """Append what is buffered. When that fails, it is kept for the next time."""
        if not self._buffer:
            return
        self._flushed = time.monotonic()
        torn = b"\n" if self._complained else b""  # a full disk has perhaps taken half a line
        try:
            self._storage.append(self._path, torn + b"".join(events.encode(event) for event in self._buffer))
        except (StorageError, OSError) as error:
            if not self._complained:
                log.warning("events are not written for now: %s", error)
            self._complained = True
            del self._buffer[:-_MOST_BUFFERED]
            return
        self._complained = False
        self._buffer.clear()

    def close(self) -> None:
        """Append what is buffered, and make others see it before this process ends."""
        self.flush()
        try:
            self._storage.flush()
        except StorageError as error:
            log.warning("the last events were lost: %s", error)
