"""TensorBoard scalars. A resumed run's writer tells TensorBoard to forget what the earlier one wrote too far.

Uses tensorboard's own event writer; torch.utils.tensorboard takes far longer to import and adds nothing for scalars.
"""

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from torchrelay.contract import environment
from torchrelay.contract.storage import Storage, on_object_storage
from torchrelay.mirror import Mirror

log = logging.getLogger(__name__)


class CurvesFolder:
    """Where curves are drawn: the run's own folder, or on object storage a local one that is mirrored to the run."""

    def __init__(self, storage: Storage, path: str) -> None:
        self._mirror: Mirror | None = None
        if not on_object_storage(storage):
            self.folder = storage.folder(path).url
            return
        self.folder = _local_folder()
        self._mirror = Mirror(Path(self.folder), storage, path)

    def begin(self, purge_step: int) -> "Curves":
        """Curves of which all that earlier ones have from `purge_step` on does not count any more."""
        return Curves(self.folder, purge_step)

    def sync_soon(self) -> None:
        """Have what was flushed sent to the run's storage."""
        if self._mirror is not None:
            self._mirror.sync_soon()

    def close(self) -> None:
        """Send what is left, and tidy up."""
        if self._mirror is not None:
            self._mirror.close()
            shutil.rmtree(self.folder, ignore_errors=True)


def _local_folder() -> str:
    """A fresh folder on this node, where the supervisor, if there is one, cleans up after a rank that was killed."""
    reports = os.environ.get(environment.REPORTS)
    return tempfile.mkdtemp(prefix="torchrelay-curves-", dir=Path(reports).parent if reports else None)


class Curves:
    """Scalars in one folder, opened with the first one. A missing tensorboard or a full disk only ends the curves."""

    def __init__(self, folder: str, purge_step: int) -> None:
        self._folder = folder
        self._purge_step = purge_step
        self._writer: Any = None
        self._broken = False

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Add a point to each curve."""
        if self._broken:
            return
        try:
            self._add(step, values)
        except ImportError:
            self._broken = True
            log.info("tensorboard is not installed, so there are no curves")
        except Exception as error:  # noqa: BLE001 - its writer thread passes on whatever went wrong there
            self._broken = True
            log.warning("no more TensorBoard curves: %s", error)

    def flush(self) -> None:
        """Hand everything to the file system, so that a kill loses no point that a checkpoint has left behind."""
        self._try("flush")

    def close(self) -> None:
        self._try("close")

    def _try(self, action: str) -> None:
        if self._writer is None or self._broken:
            return
        try:
            getattr(self._writer, action)()
        except Exception as error:  # noqa: BLE001 - see scalars
            self._broken = True
            log.warning("no more TensorBoard curves: %s", error)

    def _add(self, step: int, values: dict[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        if self._writer is None:
            self._writer = self._open()
        points = [Summary.Value(tag=_tag(name), simple_value=value) for name, value in values.items()]
        self._writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=points)))

    def _open(self) -> Any:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        writer = EventFileWriter(self._folder)
        start = SessionLog(status=SessionLog.START)
        writer.add_event(Event(wall_time=time.time(), step=self._purge_step, session_log=start))
        return writer


_PERFORMANCE = ("samples_per_s", "data_wait_s", "step_s", "memory_bytes", "checkpoint_stall_s", "checkpoint_wait_s")


def _tag(name: str) -> str:
    """TensorBoard groups curves by what is before the slash."""
    if "/" in name:
        return name
    return f"performance/{name}" if name in _PERFORMANCE else f"train/{name}"
