"""TensorBoard scalars. A resumed run's writer tells TensorBoard to forget what the earlier one wrote too far.

Uses tensorboard's own records; torch.utils.tensorboard takes far longer to import and adds nothing for scalars.
"""

import contextlib
import logging
import os
import re
import shutil
import socket
import tempfile
import time
from pathlib import Path
from typing import Any

from torchrelay.contract import environment
from torchrelay.contract.errors import StorageError
from torchrelay.contract.storage import Storage, on_object_storage
from torchrelay.mirror import Mirror

log = logging.getLogger(__name__)
_NAME = re.compile(r"events\.out\.tfevents\.(\d{10})\.")


class CurvesFolder:
    """Where curves are drawn: the run's own folder, or on object storage a local one that is mirrored to the run.

    TensorBoard reads the files of a folder in the order of their names, and those begin with the second that they were
    made in. Each file here is named for a later second than all before it, also those of gangs whose clock was ahead.
    """

    def __init__(self, storage: Storage, path: str) -> None:
        self._mirror: Mirror | None = None
        self._second = _newest_second(storage, path)
        if not on_object_storage(storage):
            self.folder = storage.folder(path).url
            return
        self.folder = _local_folder()
        self._mirror = Mirror(Path(self.folder), storage, path)

    def begin(self, purge_step: int) -> "Curves":
        """Curves of which all that earlier ones have from `purge_step` on does not count any more."""
        self._second = max(self._second + 1, int(time.time()))
        name = f"events.out.tfevents.{self._second:010d}.{socket.gethostname()}.{os.getpid()}"
        return Curves(Path(self.folder, name), purge_step)

    def sync_soon(self) -> None:
        """Have what was drawn sent to the run's storage."""
        if self._mirror is not None:
            self._mirror.sync_soon()

    def close(self) -> None:
        """Send what is left, and tidy up."""
        if self._mirror is not None:
            self._mirror.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def _newest_second(storage: Storage, path: str) -> int:
    """The second in the name of the newest file that is there; 0 if there is none, or no telling."""
    try:
        names = storage.list(path)
    except StorageError as error:
        log.warning("TensorBoard may read the curves of this attempt before earlier ones: %s", error)
        return 0
    return max((int(found[1]) for found in map(_NAME.match, names) if found), default=0)


def _local_folder() -> str:
    """A fresh folder on this node, where the supervisor, if there is one, cleans up after a rank that was killed."""
    reports = os.environ.get(environment.REPORTS)
    return tempfile.mkdtemp(prefix="torchrelay-curves-", dir=Path(reports).parent if reports else None)


class Curves:
    """Scalars in one file, made with the first of them. A missing tensorboard or a full disk only ends the curves."""

    def __init__(self, file: Path, purge_step: int) -> None:
        self._file = file
        self._purge_step = purge_step
        self._writer: Any = None
        self._broken = False

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve; the file system has it on return, so that a kill loses none."""
        if self._broken:
            return
        try:
            self._add(step, values)
        except ImportError:
            self._broken = True
            log.info("tensorboard is not installed, so there are no curves")
        except Exception as error:  # noqa: BLE001 - a tensorboard that does not fit its protobuf raises anything
            self._broken = True
            log.warning("no more TensorBoard curves: %s", error)

    def close(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):  # of points that could not be written, which was said then
                self._writer.close()

    def _add(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None:
            self._open()
        points = [Summary.Value(tag=_tag(name), simple_value=value) for name, value in values.items()]
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))

    def _open(self) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._file.parent.mkdir(parents=True, exist_ok=True)
        self._writer = RecordWriter(self._file.open("ab"))
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))
        start = SessionLog(status=SessionLog.START)
        self._write(Event(wall_time=time.time(), step=self._purge_step, session_log=start))

    def _write(self, event: Any) -> None:
        self._writer.write(event.SerializeToString())
        self._writer.flush()


_PERFORMANCE = ("samples_per_s", "data_wait_s", "step_s", "memory_bytes", "checkpoint_stall_s", "checkpoint_wait_s")


def _tag(name: str) -> str:
    """TensorBoard groups curves by what is before the slash."""
    if "/" in name:
        return name
    return f"performance/{name}" if name in _PERFORMANCE else f"train/{name}"
