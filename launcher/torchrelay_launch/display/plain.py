"""A followed attempt in a file or a pipe: the log lines as they come, no colour, no carriage returns.

What torchrun itself prints, a traceback of its own for every rank that fails, is left out unless it is asked for.
"""

import sys

from torchrelay.contract.events import Event
from torchrelay_launch.display.style import note
from torchrelay_launch.display.text import clean
from torchrelay_launch.tailing import is_torchrun


class PlainView:
    """Prints log lines on stdout and what the launcher says on stderr."""

    def __init__(self, *, verbose: bool) -> None:
        self._verbose = verbose

    def show(self, lines: list[str], events: list[Event]) -> None:  # noqa: ARG002 - ranks log their progress themselves
        shown = [clean(line) for line in lines if self._verbose or not is_torchrun(line)]
        if shown:
            sys.stdout.write("".join(f"{line}\n" for line in shown))
            sys.stdout.flush()

    def say(self, text: str) -> None:
        note(text)


class SilentView:
    """Shows nothing, for --quiet."""

    def show(self, lines: list[str], events: list[Event]) -> None:
        pass

    def say(self, text: str) -> None:
        pass
