"""YAML's own errors in a user's words. Imported only when there is one."""

from typing import Any

from torchrelay_launch.spec.places import Place, Problem, Source

_SAYS = (
    # what PyYAML or libyaml says, what it means, how to mend it
    (
        "mapping values are not allowed",
        "a second `: ` on one line, or a line indented too far",
        "quote text that holds `: `",
    ),
    ("could not find expected ':'", "a key without a colon", "write `key: value`"),
    (
        "did not find expected key",
        "this does not line up with the keys above it",
        "indent the keys of a mapping equally",
    ),
    (
        "did not find expected '-' indicator",
        "this does not line up with the list above it",
        "indent all its `-` equally",
    ),
    ("did not find expected ',' or", "a `[` or `{` that is not closed, or a missing comma", ""),
    ("did not find expected node content", "a value is missing", ""),
    ("found unexpected ':'", "a colon without a blank after it", "put a blank after the colon, or quote the text"),
    ("found unexpected end of stream", "a quote that is never closed", ""),
    ("found undefined alias", "an alias without an anchor above it", ""),
    ("found undefined tag handle", "tags have no meaning in a spec", "quote text that begins with `!`"),
    ("found duplicate anchor", "the same anchor twice", ""),
    ("did not find expected <document start>", "text after the end of the document", ""),
    ("found unknown escape character", "an unknown escape in double quotes", "use single quotes for backslashes"),
    ("block sequence entries are not allowed", "a list can't begin here", "put its first `-` on a line of its own"),
)
_CANNOT_START = "cannot start any token"


def syntax_problem(error: Exception, source: Source, column: int) -> Problem:
    """What is wrong with a text that is no YAML. `column`: where in the source's first line the text began."""
    place = _place(error, source, column)
    if isinstance(place, str):
        return Problem(place, f"not valid YAML: {error}")
    said = f"{getattr(error, 'problem', None) or error} {getattr(error, 'context', None) or ''}"
    character = source.lines[place.line][place.column : place.column + 1] if place.line < len(source.lines) else ""
    if _CANNOT_START in said:
        return Problem(place, *_odd_character(character))
    if "special characters" in said or "control characters" in said:
        return Problem(place, "a control character, which YAML does not allow", "remove it, or write it as an escape")
    for words, means, hint in _SAYS:
        if words in said:
            return Problem(place, f"not valid YAML: {means}", hint)
    return Problem(place, f"not valid YAML: {said.strip()}")


def _odd_character(character: str) -> tuple[str, str]:
    if character == "\t":
        return ("a tab, which YAML does not take for indentation", "use spaces")
    return (f"nothing in YAML begins with `{character}`", "put the text in quotes")


def _place(error: Any, source: Source, column: int) -> Place | str:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    if mark is not None:
        line = min(mark.line, len(source.lines) - 1)
        at = mark.column + (column if line == 0 else 0)
        return Place(source, line, min(at, len(source.lines[line])) if line == mark.line else len(source.lines[line]))
    position = getattr(error, "position", None)  # of a yaml.reader.ReaderError
    if isinstance(position, int):
        position += column
        return _at(source, _first_odd(source.text, position))
    return source.name


def _first_odd(text: str, position: int) -> int:
    """Look for the character itself: libyaml counts bytes where PyYAML counts characters."""
    allowed = "\t\n\r\x85"
    odd = (
        i for i, c in enumerate(text) if c not in allowed and (c < " " or "\x7f" <= c < "\xa0" or c in "\ufffe\uffff")
    )
    return next(odd, min(position, len(text)))


def _at(source: Source, position: int) -> Place:
    remaining = position
    for number, line in enumerate(source.lines):
        if remaining <= len(line):
            return Place(source, number, remaining)
        remaining -= len(line) + 1
    return Place(source, len(source.lines) - 1, 0)
