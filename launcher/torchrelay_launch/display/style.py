"""Colour for a terminal, nothing for a file or a pipe, and notes on stderr."""

import os
import sys
from typing import TextIO

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
STATE_COLOURS = {
    "completed": "green",
    "failed": "red",
    "running": "cyan",
    "pending": "dim",
    "preempted": "yellow",
    "stopped": "yellow",
}


def colourful(stream: TextIO) -> bool:
    """Whether a stream is a terminal that may be coloured (https://no-color.org)."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str, stream: TextIO | None = None) -> str:
    """`text` in a colour, if `stream` (stdout unless given) shows colours."""
    shown = colourful(sys.stdout if stream is None else stream)
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m" if shown else text


def paint_state(state: str) -> str:
    """A run's state or an attempt's outcome in its colour."""
    return paint(state, STATE_COLOURS.get(state, "yellow"))


def note(text: str, *, quiet: bool = False) -> None:
    """Say something that is not a result."""
    if not quiet:
        print(text, file=sys.stderr, flush=True)  # noqa: T201
