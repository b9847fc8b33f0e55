"""A local folder kept in step with storage, for programs that can only write local files, TensorBoard above all.

Files go up whole, because object storage has no other way to let one grow, and TensorBoard reads `s3://` itself. A file
that takes long to send is sent less often, so that mirroring never takes more than a small part of the time.
"""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.storage import Storage

logger = logging.getLogger(__name__)

_PAUSE_PER_COST = 20.0  # a file is left alone for this many times as long as its last sending took


@dataclass
class _Sent:
    """What storage holds of a file."""

    size_bytes: int
    modified_ns: int
    not_before: float  # time.monotonic() from which on it may be sent again


class Mirror:
    """Sends the files below `folder` to `path` in storage, every `interval_s` seconds and when it is closed.

    Files that vanish locally stay in storage, and what earlier attempts left there is not touched, unless a file has
    the same name. A failure is logged and the next round tries again; it never reaches the training.
    """

    def __init__(self, folder: Path, storage: Storage, path: str, interval_s: float = 30.0) -> None:
        self.folder = folder
        self.storage = storage
        self.path = path
        self.interval_s = interval_s
        self._sent: dict[str, _Sent] = {}
        self._lock = threading.Lock()
        self._failing = False
        self._closing = False
        self._due = threading.Event()
        self._thread = threading.Thread(target=self._run, name="torchrelay-mirror", daemon=True)
        self._thread.start()

    def __enter__(self) -> "Mirror":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def sync(self) -> bool:
        """Send every file that has changed, now. Returns whether all could be sent."""
        return self._send_changed(hurry=True)

    def sync_soon(self) -> None:
        """Send what has changed without waiting for the next round, and without having the caller wait."""
        self._due.set()

    def close(self) -> bool:
        """Stop, and send what has changed one last time. Returns whether all could be sent."""
        self._closing = True
        self._due.set()
        self._thread.join()
        return self.sync()

    def _run(self) -> None:
        while not self._closing:
            self._due.wait(self.interval_s)
            self._due.clear()
            if not self._closing:
                self._send_changed(hurry=False)

    def _send_changed(self, *, hurry: bool) -> bool:
        with self._lock:
            try:
                for file in sorted(self.folder.rglob("*")):
                    if file.is_file():
                        self._send_if_changed(file, hurry=hurry)
            except (TorchrelayError, OSError) as error:
                if not self._failing:
                    logger.warning("files of %s wait to be sent to %s: %s", self.folder, self.storage.url, error)
                self._failing = True
            else:
                self._failing = False
            return not self._failing

    def _send_if_changed(self, file: Path, *, hurry: bool) -> None:
        name = file.relative_to(self.folder).as_posix()
        before, sent = file.stat(), self._sent.get(name)
        if sent and (sent.size_bytes, sent.modified_ns) == (before.st_size, before.st_mtime_ns):
            return
        started = time.monotonic()
        if sent and not hurry and started < sent.not_before:
            return
        self.storage.replace(f"{self.path}/{name}", file.read_bytes())
        now = time.monotonic()
        self._sent[name] = _Sent(before.st_size, before.st_mtime_ns, now + _PAUSE_PER_COST * (now - started))
