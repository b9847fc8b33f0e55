"""The ranks' output, read from the files that torchrun redirects it to.

torchrun can copy it to its own output too (`--tee`), but what it has not yet copied is lost when it is killed, which
is how a failed gang ends here: the last lines, the ones that say why, would be missing.
"""

from collections import deque
from collections.abc import Callable
from pathlib import Path

from torchrelay.contract.log_lines import LogLine
from torchrelay_launch.supervisor.output import LineSplitter, NodeLog

CHUNK_BYTES = 1 << 18
KEPT_LINES = 200  # of every rank's stderr, for its last traceback


class RankFile:
    """One stream of one rank."""

    def __init__(self, path: Path, rank: int, log: NodeLog, kept: deque[str] | None) -> None:
        self._file = path.open("rb", buffering=0)
        self._rank, self._log, self._kept = rank, log, kept
        self._splitter = LineSplitter(log.redact)

    def read_on(self) -> bool:
        """Take a piece of what was added. Returns whether there was anything."""
        data = self._file.read(CHUNK_BYTES)
        self._take(self._splitter.feed(data or b""))
        return bool(data)

    def finish(self) -> None:
        self._take(self._splitter.finish())
        self._file.close()

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            self._log.add(LogLine(self._log.node, self._rank, line))
            if self._kept is not None:
                self._kept.append(line)


class RankOutput:
    """All ranks' streams of one start of torchrun. `rank_of`: local rank -> rank, None while it is not known."""

    def __init__(self, folder: Path, log: NodeLog, rank_of: Callable[[int], int | None]) -> None:
        self.stderr: dict[int, deque[str]] = {}
        self._folder, self._log, self._rank_of = folder, log, rank_of
        self._files: dict[Path, RankFile] = {}

    def read_on(self) -> bool:
        """Pick up new files and take a piece of each. Returns whether there was anything."""
        self._find()
        if self._log.crowded:
            return False
        read = [file.read_on() for file in self._files.values()]
        return any(read)

    async def drain(self) -> None:
        """Take all that is left, at the pace of the log."""
        while self.read_on() or self._log.crowded:
            await self._log.flush()
            if self._log.crowded:
                break  # the storage is away; the rest stays unread
        for file in self._files.values():
            file.finish()
        self._files.clear()

    def _find(self) -> None:
        for path in self._folder.glob("*/attempt_*/*/std*.log"):
            if path not in self._files and path.parent.name.isdigit():
                rank = self._rank_of(int(path.parent.name))
                if rank is not None:
                    kept = self.stderr.setdefault(rank, deque(maxlen=KEPT_LINES)) if "err" in path.name else None
                    self._files[path] = RankFile(path, rank, self._log, kept)
