"""Columns of text, aligned."""

import re
from collections.abc import Sequence

_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Lines of aligned columns; those whose numbers are in `right` are aligned to the right."""
    everything = [header, *rows]
    widths = [max(_width(row[i]) for row in everything) for i in range(len(header))]
    lines = []
    for row in everything:
        cells = [_pad(cell, widths[i], to_right=i in right) for i, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def pairs(rows: Sequence[tuple[str, str]], indent: str = "") -> str:
    """`name  value` lines with the values aligned; a value's further lines are indented to match."""
    width = max((len(name) for name, _ in rows), default=0) + 2
    lines = []
    for name, value in rows:
        first, *more = value.split("\n")
        lines.append(f"{indent}{name:<{width}}{first}".rstrip())
        lines += [f"{indent}{'':<{width}}{line}".rstrip() for line in more]
    return "\n".join(lines)


def _width(cell: str) -> int:
    return len(_ESCAPES.sub("", cell))


def _pad(cell: str, width: int, *, to_right: bool) -> str:
    space = " " * (width - _width(cell))
    return space + cell if to_right else cell + space
