"""Following an attempt that this launcher started, until it ends."""

import errno
from dataclasses import dataclass
from typing import Protocol

from torchrelay.contract.events import Event
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.base import Handle
from torchrelay_launch.interrupts import Interrupts
from torchrelay_launch.tailing import EventTail, LogTail

LOOK_EVERY_S = 0.1
INTERRUPTED = 130  # 128 + SIGINT: killed on request
_READER_GONE = (errno.EPIPE, errno.EIO)  # a pipe that nobody reads, a terminal that was closed


class View(Protocol):
    """Where a followed attempt is shown."""

    def show(self, lines: list[str], events: list[Event]) -> None:
        """Log lines and events that have come since the last call; called also when there are none."""

    def say(self, text: str) -> None:
        """A word of the launcher's own."""


@dataclass
class Following:
    """One followed attempt."""

    storage: Storage
    attempt: int
    handle: Handle
    interrupts: Interrupts
    view: View
    _acted_on: int = 0
    _nobody_looks: bool = False

    def until_end(self) -> int:
        """Show what happens, act on signals, and return the exit code of the attempt, or 130 if it was killed."""
        logs, events = LogTail(self.storage, self.attempt), EventTail(self.storage, self.attempt)
        while (code := self.handle.poll()) is None:
            self._show(logs.new_lines(), events.new_events())
            self._act()
            self.interrupts.wait(LOOK_EVERY_S)
        self._show(logs.new_lines(final=True), events.new_events())
        return INTERRUPTED if self._acted_on > 1 else code

    def _act(self) -> None:
        """Once for every signal: stop, kill, and at the third give up waiting."""
        if self._acted_on >= self.interrupts.count:
            return
        self._acted_on += 1
        if self._acted_on == 1:
            self.handle.stop()
            why = "nobody reads the output any more: " if self._nobody_looks else ""
            self._say(f"{why}stopping after this step, saving a checkpoint (Ctrl-C again to kill)")
        elif self._acted_on == 2:
            self.handle.kill()
            self._say("killing it")
        else:
            raise KeyboardInterrupt

    def _show(self, lines: list[str], events: list[Event]) -> None:
        if self._nobody_looks:
            return
        try:
            self.view.show(lines, events)
        except OSError as error:
            self._lose_reader(error)

    def _say(self, text: str) -> None:
        try:
            self.view.say(text)
        except OSError as error:
            self._lose_reader(error)

    def _lose_reader(self, error: OSError) -> None:
        """Whoever closes our output has turned away: stop, as if the launcher had died. A full disk says less."""
        if error.errno in _READER_GONE and not self._nobody_looks:
            self._nobody_looks = True
            self.interrupts.count = max(1, self.interrupts.count)
