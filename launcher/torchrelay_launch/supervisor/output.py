"""What ranks and torchrun print, line by line, without secrets, into the node's log."""

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Iterable

from torchrelay.contract.errors import StorageError
from torchrelay.contract.log_lines import LogLine
from torchrelay.contract.storage import Storage
from torchrelay_launch.torchrun import split_by_rank

LONGEST_LINE_BYTES = 1 << 16  # longer ones are cut into pieces
FLUSH_S = 0.2
MOST_PENDING_BYTES = 4 << 20  # while the storage is slow or away
SHORTEST_SECRET = 4  # replacing every "1" would hide the log rather than a secret
HIDDEN = b"***"


class Redactor:
    """Replaces the values of secrets by ***; each line of a value of several lines counts."""

    def __init__(self, values: Iterable[str] = ()) -> None:
        lines = {line.strip() for value in values for line in value.splitlines()}
        hidden = sorted((line for line in lines if len(line) >= SHORTEST_SECRET), key=len, reverse=True)
        self._hidden = [line.encode() for line in hidden]
        self.longest = max(map(len, self._hidden), default=0)

    def __call__(self, data: bytes) -> bytes:
        for value in self._hidden:
            data = data.replace(value, HIDDEN)
        return data

    def text(self, text: str) -> str:
        return self(text.encode(errors="replace")).decode(errors="replace")


class LineSplitter:
    """Cuts a stream of bytes into lines of text: bounded memory, no secrets, whatever bytes come."""

    def __init__(self, redact: Redactor) -> None:
        self._redact = redact
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that are complete now."""
        *lines, rest = (self._rest + data).split(b"\n")
        found = [self._text(self._redact(line)) for line in lines]
        while len(rest) > LONGEST_LINE_BYTES:
            rest = self._redact(rest)
            cut = min(LONGEST_LINE_BYTES, max(1, len(rest) - self._redact.longest))  # a secret may span the cut
            found.append(self._text(rest[:cut]))
            rest = rest[cut:]
        self._rest = rest
        return found

    def finish(self) -> list[str]:
        """What is left when the stream has ended without a line's end."""
        rest, self._rest = self._rest, b""
        return [self._text(self._redact(rest))] if rest else []

    @staticmethod
    def _text(line: bytes) -> str:
        """As a terminal would leave it: what a carriage return has overwritten is not shown."""
        return line.rstrip(b"\r").rpartition(b"\r")[2].decode(errors="replace")


class NodeLog:
    """The log of one node in storage, appended to in batches. A storage that fails stops nobody."""

    def __init__(self, storage: Storage, path: str, node: int, redact: Redactor) -> None:
        self.node = node
        self.redact = redact
        self._storage, self._path = storage, path
        self._pending: deque[bytes] = deque()
        self._pending_bytes = 0
        self._lost_lines = 0
        self._failing = False
        self._echo = True
        self._writing = asyncio.Lock()  # a batch is taken once: several tasks flush

    @property
    def crowded(self) -> bool:
        """Whether readers had better wait until more has been written."""
        return self._pending_bytes > MOST_PENDING_BYTES // 2

    def say(self, text: str) -> None:
        """A line of the supervisor's own."""
        for line in self.redact.text(text).splitlines():
            self.add(LogLine(self.node, None, line))

    def add(self, line: LogLine) -> None:
        """A line whose secrets are already hidden."""
        if self._pending_bytes > MOST_PENDING_BYTES:
            self._lost_lines += 1
            return
        data = f"{line}\n".encode(errors="replace")
        self._pending.append(data)
        self._pending_bytes += len(data)

    async def keep_flushing(self) -> None:
        """Append what has come, five times a second, until cancelled."""
        while True:
            await asyncio.sleep(FLUSH_S)
            await self.flush()

    async def flush(self) -> None:
        """Append what has come. May be called by several tasks at once."""
        async with self._writing:
            await self._flush()

    async def _flush(self) -> None:
        if self._lost_lines and not self.crowded:
            lost, self._lost_lines = self._lost_lines, 0
            self.say(f"{lost} lines were lost here: the log could not be written fast enough")
        data = b"".join(self._pending)
        if not data:
            return
        count = len(self._pending)
        if await asyncio.to_thread(self._write, data):
            for _ in range(count):
                self._pending_bytes -= len(self._pending.popleft())

    async def close(self) -> None:
        """Write what is left, so that others see it when this process has ended."""
        await self.flush()
        with contextlib.suppress(StorageError):
            await asyncio.to_thread(self._storage.flush)

    def _write(self, data: bytes) -> bool:
        """Runs in a thread. A failed append is tried again with the next batch."""
        if not self._failing:
            self._to_stdout(data)
        try:
            self._storage.append(self._path, data)
        except (StorageError, OSError) as error:
            if not self._failing:
                self._to_stdout(
                    f"{LogLine(self.node, None, f'warning: the log cannot be written: {error}')}\n".encode()
                )
            self._failing = True
            return False
        self._failing = False
        return True

    def _to_stdout(self, data: bytes) -> None:
        """For `srun` and `kubectl logs`; nobody may be reading."""
        if self._echo:
            self._echo = False
            with contextlib.suppress(OSError):
                view = memoryview(data)
                while view:
                    view = view[os.write(1, view) :]
                self._echo = True


class TorchrunOutput:
    """torchrun's own lines, from its pipe. What it repeats of the ranks' output is left out: see `rank_output`."""

    KEPT_LINES = 400

    def __init__(self, log: NodeLog) -> None:
        self.lines: deque[str] = deque(maxlen=self.KEPT_LINES)
        self._log = log
        self._splitter = LineSplitter(log.redact)

    def attach(self, descriptor: int) -> None:
        """Read the pipe as it fills, from the running event loop."""
        os.set_blocking(descriptor, False)
        asyncio.get_running_loop().add_reader(descriptor, self._read, descriptor)

    def _read(self, descriptor: int) -> bool:
        try:
            data = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            asyncio.get_running_loop().remove_reader(descriptor)
            return False
        self._take(self._splitter.feed(data))
        return True

    def drain(self, descriptor: int) -> None:
        """Take what is still in the pipe, and close it."""
        while self._read(descriptor):
            pass
        self._take(self._splitter.finish())
        asyncio.get_running_loop().remove_reader(descriptor)
        os.close(descriptor)

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            own = "".join(text for rank, text in split_by_rank(line)[:1] if rank is None)
            if own or not line:
                self.lines.append(own)
                self._log.add(LogLine(self._log.node, None, own, torchrun=True))
