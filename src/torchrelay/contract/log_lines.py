"""How a line of a node's log names where it came from: `[node 0 rank 3] text`, or `[node 0] text` of the supervisor."""

import re
from dataclasses import dataclass

PROGRESS = "step "  # what a rank's plain progress lines begin with; a terminal shows a live line in their place
_LINE = re.compile(r"\[node (\d+)(?: rank (\d+)| (torchrun))?\] ?(.*)\Z", re.DOTALL)


@dataclass(frozen=True)
class LogLine:
    """One line of a node's log. `rank` is None for the supervisor and for torchrun."""

    node: int
    rank: int | None
    text: str
    torchrun: bool = False

    def __str__(self) -> str:
        who = f" rank {self.rank}" if self.rank is not None else " torchrun" if self.torchrun else ""
        return f"[node {self.node}{who}] {self.text}"


def parse(line: str) -> LogLine | None:
    """The parts of a log line, or None if it does not begin as one."""
    match = _LINE.match(line)
    if match is None:
        return None
    return LogLine(int(match[1]), int(match[2]) if match[2] else None, match[4], torchrun=bool(match[3]))
