"""One place to tell what happens in a run; rank 0 has it."""

import logging
import sys
import threading
import time
from collections.abc import Callable

from torchrelay.attempt import Attempt
from torchrelay.contract import layout
from torchrelay.contract.settings import Json
from torchrelay.observe import lines
from torchrelay.observe.curves import CurvesFolder
from torchrelay.observe.event_log import EventLog
from torchrelay.saver import Saving

log = logging.getLogger(__name__)
_CLOSE_S = 20.0


class Observer:
    """Writes events, curves and lines. Steps are counted as steps done."""

    def __init__(self, attempt: Attempt) -> None:
        self.events = EventLog(attempt.storage, layout.events_file(attempt.writer))
        self._folder = CurvesFolder(attempt.storage, layout.TENSORBOARD)
        self._curves = self._folder.begin(purge_step=0)

    def restored(self, step: int) -> None:
        """Training goes on after `step`: curves of later steps, drawn by earlier gangs, do not count any more."""
        # What was measured up to and with `step` lies behind the checkpoint and stays.
        self._curves = self._folder.begin(purge_step=step + 1)

    def started(self, step: int, total: int | None, world_size: int, resumed_from: str | None) -> None:
        """Training begins or goes on; `resumed_from` is a checkpoint's folder."""
        self.events.write("started", step=step, total_steps=total, world_size=world_size, resumed_from=resumed_from)

    def step(self, step: int, total: int | None, metrics: dict[str, float], eta_s: float | None) -> None:
        self.events.write("step", step=step, total_steps=total, metrics=_json(metrics))
        self._curves.scalars(step, metrics)
        _say(lines.progress(step, total, metrics, eta_s))

    def evaluation(self, step: int, metrics: dict[str, float]) -> None:
        self.events.write("evaluation", step=step, metrics=_json(metrics))
        self._curves.scalars(step, metrics)
        _say(lines.evaluation(step, metrics))

    def saved(self, saving: Saving, **paced: float) -> None:
        """A checkpoint is committed. `paced`: with `every: auto`, what it cost, and when the next is due."""
        self.events.write(
            "checkpoint",
            step=saving.step,
            folder=saving.folder,
            bytes=saving.size_bytes,
            seconds=saving.seconds,
            stall_s=saving.stall_s,
            waited_s=saving.waited_s,
            **paced,
        )

    def flush(self) -> None:
        """Write down all that is buffered; object storage has it a little later."""
        self.events.flush()
        self._folder.sync_soon()

    def close(self) -> None:
        """Write down everything, for others to see. A storage that is away holds the end up for a short time only."""
        self.events.flush()
        self._curves.close()
        waiting = [_started(self.events.close), _started(self._folder.close)]
        deadline = time.monotonic() + _CLOSE_S
        for thread in waiting:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                log.warning("the storage does not answer, so the last events or curves may be missing")


def _started(close: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=close, name="torchrelay-close", daemon=True)
    thread.start()
    return thread


def _json(metrics: dict[str, float]) -> dict[str, Json]:
    return dict(metrics)


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")
    sys.stderr.flush()
