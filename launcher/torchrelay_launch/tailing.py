"""Reading what a run adds to its logs and events, while it writes them."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torchrelay.contract import events, layout, log_lines
from torchrelay.contract.events import Event
from torchrelay.contract.storage import Storage

_MOST_AT_ONCE_BYTES = 4 * 2**20


@dataclass
class Tail:
    """One growing object of storage, read from `offset` on."""

    storage: Storage
    path: str
    offset: int = 0
    _rest: bytes = b""
    _behind: bool = False

    def new_lines(self, *, final: bool = False) -> list[bytes]:
        """The lines that were finished since the last call; with `final`, also one without its end.

        One call reads a few MiB at most, so that a flood of output cannot keep the caller from looking up.
        """
        data = self._rest + self._read()
        *lines, self._rest = data.split(b"\n")
        if final and self._rest and not self.behind():
            lines.append(self._rest)
            self._rest = b""
        return lines

    def behind(self) -> bool:
        """Whether the last call left more to read."""
        return self._behind

    def _read(self) -> bytes:
        try:
            data = self.storage.read_from(self.path, self.offset, _MOST_AT_ONCE_BYTES)
        except FileNotFoundError:
            data = b""
        self.offset += len(data)
        self._behind = len(data) == _MOST_AT_ONCE_BYTES
        return data


@dataclass
class LogTail:
    """All node logs of one attempt; nodes that start later are picked up."""

    storage: Storage
    attempt: int
    _tails: dict[str, Tail] = field(default_factory=dict)

    def new_lines(self, *, final: bool = False) -> list[str]:
        """What the nodes logged since the last call, node by node; with `final`, to the last byte."""
        found = self._once(final=final)
        while final and any(tail.behind() for tail in self._tails.values()):
            found += self._once(final=True)
        return found

    def skip(self, keep: int, wanted: Callable[[str], bool]) -> list[str]:
        """Go to the end of what there is, and return the last wanted lines of every node."""
        kept: list[str] = []
        for path in node_logs(self.storage, self.attempt):
            last: deque[str] = deque(maxlen=keep)
            offset = 0
            for line in whole_lines(self.storage, path):
                offset += line.size_bytes
                if wanted(line.text):
                    last.append(line.text)
            kept += last
            self._tails[path] = Tail(self.storage, path, offset)
        return kept

    def _once(self, *, final: bool) -> list[str]:
        found: list[str] = []
        for path in node_logs(self.storage, self.attempt):
            tail = self._tails.setdefault(path, Tail(self.storage, path))
            found += [line.decode(errors="replace") for line in tail.new_lines(final=final)]
        return found


@dataclass
class EventTail:
    """The events of one attempt, gang by gang."""

    storage: Storage
    attempt: int
    _tails: dict[str, Tail] = field(default_factory=dict)

    def new_events(self) -> list[Event]:
        """The events written since the last call, oldest gang first."""
        found: list[Event] = []
        for name in self.storage.list(layout.EVENTS):
            if name.startswith(f"a{self.attempt:04d}-"):
                tail = self._tails.setdefault(name, Tail(self.storage, f"{layout.EVENTS}/{name}"))
                found += [event for line in tail.new_lines() for event in events.decode(line + b"\n")]
        return found


def node_logs(storage: Storage, attempt: int) -> list[str]:
    """Paths of an attempt's node logs, in the order of the nodes."""
    folder = layout.node_log(attempt, 0).rsplit("/", 1)[0]
    return [f"{folder}/{name}" for name in storage.list(folder) if name.endswith(".log")]


@dataclass(frozen=True)
class Line:
    """A line of a log, and how many bytes it takes there."""

    text: str
    size_bytes: int


def whole_lines(storage: Storage, path: str, *, unfinished: bool = False) -> Iterator[Line]:
    """The lines of a log that have their end, and with `unfinished` what comes after the last of them."""
    with storage.open(path) as file:
        for line in file:
            if unfinished or line.endswith(b"\n"):
                yield Line(line.removesuffix(b"\n").decode(errors="replace"), len(line))


def is_progress(line: str) -> bool:
    """Whether a log line is a rank's plain progress line, which a live line stands for on a terminal."""
    parsed = log_lines.parse(line)
    return parsed is not None and parsed.rank is not None and parsed.text.startswith(log_lines.PROGRESS)


def is_torchrun(line: str) -> bool:
    """Whether a log line is torchrun's own."""
    parsed = log_lines.parse(line)
    return parsed is not None and parsed.torchrun


def last_metrics(storage: Storage, attempt: int) -> dict[str, float]:
    """The newest value of every metric in the last events of an attempt, or of the one before it that has any."""
    prefixes = tuple(f"a{number:04d}-" for number in range(1, attempt + 1))
    names = [name for name in storage.list(layout.EVENTS) if name.startswith(prefixes)]
    found: dict[str, float] = {}
    for name in reversed(names):
        for event in events.decode(_last_bytes(storage, f"{layout.EVENTS}/{name}")):
            metrics = event.get("metrics")
            if isinstance(metrics, dict):
                found |= {key: float(value) for key, value in metrics.items() if isinstance(value, (int, float))}
        if found:
            break
    return found


def _last_bytes(storage: Storage, path: str, most: int = 65536) -> bytes:
    """The last lines of an object, whole."""
    with storage.open(path) as file:
        start = max(0, file.seek(0, 2) - most)
        file.seek(start)
        data = file.read(most)
    return data if start == 0 else data.partition(b"\n")[2]
