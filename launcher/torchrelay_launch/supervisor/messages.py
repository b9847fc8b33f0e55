"""What the supervisors of one attempt tell each other: one JSON object a line over TCP, or through queues on one node.

A node says `hello`, `ended` (of its gang), `stop` (it was told to) and `ping`; the coordinator says `start`, `stop`,
`abort` and `finish`, or `refused` in answer to a hello.
"""

import asyncio
import dataclasses
import json
from dataclasses import dataclass
from typing import Protocol

from torchrelay.contract.records import Failure
from torchrelay.contract.settings import Json
from torchrelay_launch.supervisor.gang import End, Ending

Message = dict[str, Json]

LONGEST_LINE_BYTES = 1 << 20
LONGEST_TRACEBACK = 100_000  # characters; far below the longest line
PING_S = 5.0
SILENT_S = 30.0  # without a word for so long, the other side counts as lost


class Link(Protocol):
    """A way to and from one other supervisor, or oneself."""

    async def send(self, message: Message) -> None:
        """Send, if the other side is still there."""

    async def receive(self) -> Message | None:
        """The next message, or None once the other side is gone."""

    def close(self) -> None:
        """Let the other side know that nothing more will come."""


@dataclass
class QueueLink:
    """One end of a link within a process."""

    incoming: "asyncio.Queue[Message | None]"
    outgoing: "asyncio.Queue[Message | None]"

    async def send(self, message: Message) -> None:
        self.outgoing.put_nowait(message)

    async def receive(self) -> Message | None:
        return await self.incoming.get()

    def close(self) -> None:
        self.outgoing.put_nowait(None)


def queue_links() -> tuple[QueueLink, QueueLink]:
    """Both ends of a link within a process."""
    there: asyncio.Queue[Message | None] = asyncio.Queue()
    back: asyncio.Queue[Message | None] = asyncio.Queue()
    return QueueLink(back, there), QueueLink(there, back)


class TcpLink:
    """One end of a connection. Both ends ping, so that a machine that went away without a word is noticed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._pinging = asyncio.create_task(self._keep_pinging())

    async def send(self, message: Message) -> None:
        try:
            self._writer.write(encode(message))
            await self._writer.drain()
        except (OSError, RuntimeError):  # `receive` tells that the other side is gone
            return

    async def receive(self) -> Message | None:
        while True:
            message = await read_message(self._reader, SILENT_S)
            if message is None or message.get("type") != "ping":
                return message

    def close(self) -> None:
        self._pinging.cancel()
        self._writer.close()

    async def _keep_pinging(self) -> None:
        while True:
            await asyncio.sleep(PING_S)
            await self.send({"type": "ping"})


async def read_message(reader: asyncio.StreamReader, limit_s: float) -> Message | None:
    """The next message, or None if the other side closed, sends anything else, or nothing for so long."""
    try:
        line = await asyncio.wait_for(reader.readline(), limit_s)
        message = json.loads(line)
    except (OSError, ValueError, RecursionError, TimeoutError):  # ValueError: no JSON, no UTF-8, or too long a line
        return None
    return message if isinstance(message, dict) else None


def encode(message: Message) -> bytes:
    return (json.dumps(message) + "\n").encode()


def ended(ending: Ending) -> Message:
    """The message that tells of a gang's end."""
    values = dataclasses.asdict(ending)
    if ending.failure:
        values["failure"]["traceback"] = ending.failure.traceback[-LONGEST_TRACEBACK:]
        values["failure"]["error"] = ending.failure.error[:LONGEST_TRACEBACK]
    return {"type": "ended", "ending": values}


def ending_of(message: Message) -> Ending:
    """The ending in an `ended` message. Raises: ValueError, TypeError, KeyError if it is malformed."""
    values = message["ending"]
    if not isinstance(values, dict):
        raise TypeError("ending is no object")
    failure = values["failure"]
    return Ending(
        End(str(values["end"])),
        float(str(values["at"])),
        Failure(**failure) if isinstance(failure, dict) else None,  # type: ignore[arg-type]
        port_taken=values["port_taken"] is True,
    )
