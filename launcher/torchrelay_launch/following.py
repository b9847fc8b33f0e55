"""Following an attempt that this launcher started, until it ends."""

import errno
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.events import Event
from torchrelay.contract.storage import Storage, on_object_storage
from torchrelay_launch.backends.base import Handle
from torchrelay_launch.interrupts import Interrupts
from torchrelay_launch.tailing import EventTail, LogTail

LOOK_EVERY_S = 0.25
OBJECT_STORAGE_LOOK_S = 2.0  # each look costs requests there
LAST_LOOK_S = 60.0
INTERRUPTED = 130  # 128 + SIGINT: killed on request
_READER_GONE = (errno.EPIPE, errno.EIO)  # a pipe that nobody reads, a terminal that was closed


class View(Protocol):
    """Where a followed attempt is shown."""

    def show(self, lines: list[str], events: list[Event]) -> None:
        """Log lines and events that have come since the last call; called also when there are none."""

    def say(self, text: str) -> None:
        """A word of the launcher's own."""


Found = tuple[list[str], list[Event]]


class _News:
    """What has come to the logs and events of an attempt since it was last asked."""

    def __init__(self, storage: Storage, attempt: int) -> None:
        self._logs, self._events = LogTail(storage, attempt), EventTail(storage, attempt)

    def take(self) -> Found:
        return self._logs.new_lines(), self._events.new_events()

    def last(self) -> Found:
        """All that is left, to the last byte."""
        return self._logs.new_lines(final=True), self._events.new_events()


class _NewsFromAfar(_News):
    """The same, read now and then in a thread, so that neither a slow storage nor one that is away holds up Ctrl-C."""

    def __init__(self, storage: Storage, attempt: int) -> None:
        super().__init__(storage, attempt)
        self._found: list[Found] = []
        self._reading: threading.Thread | None = None
        self._away = False  # whether the last look failed
        self._due = 0.0

    def take(self) -> Found:
        if self._reading is not None and self._reading.is_alive():
            return [], []
        found = self._collected()
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + OBJECT_STORAGE_LOOK_S
            self._read(final=False)
        return found

    def last(self) -> Found:
        deadline = time.monotonic() + LAST_LOOK_S
        if self._reading is not None:
            self._reading.join(LAST_LOOK_S)
        if self._reading is None or not self._reading.is_alive():
            self._read(final=True).join(max(0.0, deadline - time.monotonic()))
        return ([], []) if self._reading is not None and self._reading.is_alive() else self._collected()

    def _read(self, *, final: bool) -> threading.Thread:
        self._reading = threading.Thread(target=self._look, args=(final,), name="torchrelay-follow", daemon=True)
        self._reading.start()
        return self._reading

    def _look(self, final: bool) -> None:
        try:
            found = super().last() if final else super().take()
        except TorchrelayError as error:  # the run goes on, and what was missed comes with the next look
            if not self._away:
                self._found.append(([f"torchrelay: its logs cannot be read now: {error}"], []))
            self._away = True
            return
        if self._away:
            self._found.append((["torchrelay: its logs can be read again"], []))
        self._away = False
        self._found.append(found)

    def _collected(self) -> Found:
        """What the last look found. Not while one is under way."""
        found, self._found = self._found, []
        return [line for lines, _ in found for line in lines], [event for _, events in found for event in events]


def _news(storage: Storage, attempt: int) -> _News:
    return _NewsFromAfar(storage, attempt) if on_object_storage(storage) else _News(storage, attempt)


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
    _said: str = ""

    def until_end(self) -> int:
        """Show what happens, act on signals, and return the exit code of the attempt, or 130 if it was killed."""
        news = _news(self.storage, self.attempt)
        while (code := self.handle.poll()) is None:
            newest = getattr(self.handle, "attempt", self.attempt)  # of backends whose runs go on by themselves
            if newest != self.attempt:
                self._show(*news.last())
                self.attempt = newest
                self._say(f"goes on as attempt {newest}")
                news = _news(self.storage, newest)
            self._show(*news.take())
            self._say_why_it_waits()
            self._act()
            self.interrupts.wait(LOOK_EVERY_S)
        self._show(*news.last())
        return INTERRUPTED if self._acted_on > 1 else code

    def _say_why_it_waits(self) -> None:
        """What a cluster says of a run that has not begun there, each time that it says something else."""
        says = getattr(self.handle, "says", "")
        if says and says != self._said:
            self._say(says)
        self._said = says or self._said

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
