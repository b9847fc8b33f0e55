"""Where in a spec something is written, what is wrong with it, and how that is shown."""

from typing import NamedTuple

from torchrelay.contract.errors import ConfigError

_LINE_BREAK = "\r\n|[\r\n\x85\u2028\u2029]"  # what YAML 1.1 takes for the end of a line
_SHOWN_WIDTH = 100
_RED, _BLUE, _BOLD, _PLAIN = "\x1b[31m", "\x1b[34m", "\x1b[1m", "\x1b[0m"


class Source(NamedTuple):
    """A text that values come from: a file, or one `--set`."""

    name: str  # path as the user gave it, or "--set a.b"
    text: str
    is_file: bool = True

    @property
    def lines(self) -> list[str]:
        import re

        return re.split(_LINE_BREAK, self.text)


class Place(NamedTuple):
    """A stretch of one line. `line` and `column` count from 0, in characters."""

    source: Source
    line: int
    column: int
    width: int = 1

    def __str__(self) -> str:
        if not self.source.is_file:
            return self.source.name
        return f"{self.source.name}:{self.line + 1}:{self.column + 1}"


class Problem(NamedTuple):
    """One thing to mend. `hint` stands beside the caret and says how."""

    place: Place | str  # a place, or just a file's name where there is no line to show
    text: str
    hint: str = ""


class SpecErrors(ConfigError):  # noqa: N818 -- it holds all of them
    """Everything that is wrong with one spec. As text it is the whole report, ready to print."""

    def __init__(self, problems: list[Problem], secrets: frozenset[str] = frozenset()) -> None:
        self.problems = sorted(problems, key=_reading_order)
        self._secrets = secrets
        super().__init__(self.report())

    def report(self, *, colour: bool = False) -> str:
        """The problems in reading order, each with its source line. Values of secrets are covered."""
        blocks = [_block(problem, self._secrets, _Paint(colour)) for problem in self.covered_problems()]
        count = len(blocks)
        return "\n\n".join([*blocks, f"{count} error{'s' if count > 1 else ''}"])

    def covered_problems(self) -> list[Problem]:
        """The problems in reading order, without values of secrets in their words."""
        return [
            Problem(one.place, _covered(one.text, self._secrets), _covered(one.hint, self._secrets))
            for one in self.problems
        ]


class _Paint(NamedTuple):
    on: bool

    def __call__(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self.on and text else text


def _reading_order(problem: Problem) -> tuple[bool, str, int, int]:
    place = problem.place
    if isinstance(place, str):
        return (False, place, -1, -1)
    return (not place.source.is_file, place.source.name, place.line, place.column)


def _block(problem: Problem, secrets: frozenset[str], paint: _Paint) -> str:
    heading = f"{paint(_printable(str(problem.place)), _BOLD)}: {_printable(problem.text)}"
    if isinstance(problem.place, str):
        return f"{heading}\n      = {problem.hint}" if problem.hint else heading
    place = problem.place
    lines = place.source.lines
    line = lines[place.line] if place.line < len(lines) else ""
    number = str(place.line + 1) if place.source.is_file else ""
    shown, before, width = _excerpt(line, place, secrets)
    caret = paint(f"{'^' * width} {_printable(problem.hint)}".rstrip(), _RED)
    bar = paint("|", _BLUE)
    return f"{heading}\n{paint(f'{number:>5}', _BLUE)} {bar} {shown}\n      {bar} {before}{caret}"


def _excerpt(line: str, place: Place, secrets: frozenset[str]) -> tuple[str, str, int]:
    """The line as shown, the blanks up to its caret and the caret's width. Long lines are cut around the caret."""
    line = _printable(_covered(line, secrets))
    start = max(0, place.column - _SHOWN_WIDTH // 2) if len(line) > _SHOWN_WIDTH else 0
    shown = line[start : start + _SHOWN_WIDTH]
    if start:
        shown = "…" + shown[1:]
    if start + _SHOWN_WIDTH < len(line):
        shown = shown[:-1] + "…"
    before = "".join("\t" if character == "\t" else " " * _cells(character) for character in line[start : place.column])
    within = line[place.column : min(place.column + place.width, start + _SHOWN_WIDTH)]
    return shown.rstrip(), before, max(1, sum(map(_cells, within)))


def _covered(text: str, secrets: frozenset[str]) -> str:
    """The text with its secrets as asterisks, as long as they are so that carets still fit."""
    for secret in sorted(secrets, key=len, reverse=True):
        text = text.replace(secret, "*" * len(secret))
    return text


def _cells(character: str) -> int:
    """Columns that a character takes on a terminal."""
    if character.isascii():
        return 1
    import unicodedata

    return 0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1


def _printable(text: str) -> str:
    """The text without anything that a terminal would act on, character for character."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\t\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
