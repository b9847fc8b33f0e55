"""Durations, sizes, node counts and save intervals: how they are written in a spec, and what they mean."""

import re
from dataclasses import dataclass

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+\Z")
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s?([KMGT]i?B|B)\Z")


class Duration(float):
    """A time in seconds, written `90s`, `30m`, `12h`, `2d` or `1h30m`."""

    EXPECTED = "a duration such as 90s, 30m, 12h or 2d"

    @classmethod
    def parse(cls, text: str) -> "Duration":
        """Raises: ValueError."""
        if not _DURATION.match(text):
            raise ValueError(f"expected {cls.EXPECTED}")
        parts = re.findall(r"([\d.]+)([smhd])", text)
        return cls(sum(float(number) * _SECONDS[unit] for number, unit in parts))

    def __str__(self) -> str:
        for unit in ("d", "h", "m"):
            if self and self % _SECONDS[unit] == 0:
                return f"{int(self // _SECONDS[unit])}{unit}"
        return f"{int(self)}s" if self.is_integer() else f"{float(self)}s"

    __repr__ = __str__


class Size(int):
    """A number of bytes, written `4GiB`, `500MB`."""

    EXPECTED = "a size such as 512MiB, 4GiB or 500GB"

    @classmethod
    def parse(cls, text: str) -> "Size":
        """Raises: ValueError."""
        match = _SIZE.match(text)
        if match is None:
            raise ValueError(f"expected {cls.EXPECTED}")
        return cls(float(match[1]) * _BYTES[match[2]])

    def __str__(self) -> str:
        for unit in ("TiB", "GiB", "MiB", "KiB"):
            if self and self % _BYTES[unit] == 0:
                return f"{int(self) // _BYTES[unit]}{unit}"
        return f"{int(self)}B"

    __repr__ = __str__


@dataclass(frozen=True)
class NodeCount:
    """A fixed number of nodes, written `4`, or an elastic range, written `2..8`."""

    minimum: int
    maximum: int

    EXPECTED = "a number of nodes such as 4, or a range such as 2..8"

    @classmethod
    def parse(cls, text: str) -> "NodeCount":
        """Raises: ValueError."""
        match = re.match(r"(\d{1,6})(?:\.\.(\d{1,6}))?\Z", text)
        if match is None:
            raise ValueError(f"expected {cls.EXPECTED}")
        minimum, maximum = int(match[1]), int(match[2] or match[1])
        if not 1 <= minimum <= maximum:
            raise ValueError("expected at least 1 node, and a range that does not end below its start")
        return cls(minimum, maximum)

    @property
    def elastic(self) -> bool:
        return self.minimum != self.maximum

    def __str__(self) -> str:
        return f"{self.minimum}..{self.maximum}" if self.elastic else str(self.minimum)


@dataclass(frozen=True)
class Interval:
    """How often: every so many steps, every so many seconds, or both. Written `200 steps`, `5m`, `200 steps or 5m`.

    `auto` leaves it to what is measured.
    """

    steps: int | None = None
    seconds: float | None = None
    auto: bool = False

    EXPECTED = "an interval such as '200 steps', '5m' or '200 steps or 5m'"

    @classmethod
    def parse(cls, text: str) -> "Interval":
        """Raises: ValueError."""
        if text.strip() == "auto":
            return cls(auto=True)
        steps: int | None = None
        seconds: float | None = None
        for part in re.split(r"\s+or\s+", text.strip()):
            match = re.match(r"(\d{1,12}) steps?\Z", part)
            if match and steps is None and int(match[1]) > 0:
                steps = int(match[1])
            elif not match and seconds is None and _DURATION.match(part) and Duration.parse(part) > 0:
                seconds = float(Duration.parse(part))
            else:
                raise ValueError(f"expected {cls.EXPECTED}")
        return cls(steps, seconds)

    def __str__(self) -> str:
        if self.auto:
            return "auto"
        parts = [f"{self.steps} steps"] if self.steps else []
        return " or ".join(parts + ([str(Duration(self.seconds))] if self.seconds else []))


Unit = Duration | Size | NodeCount | Interval
UNITS = (Duration, Size, NodeCount, Interval)
