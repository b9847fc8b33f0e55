"""One node's part: it starts a gang when told, says how it ended, and stops when told, from wherever."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from torchrelay.contract.errors import ConfigError, PeerLostError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay_launch.supervisor import messages
from torchrelay_launch.supervisor.first_failure import failure_of
from torchrelay_launch.supervisor.gang import End, Ending, Gang
from torchrelay_launch.supervisor.messages import Link, Message

MakeGang = Callable[[Message], Gang]
CONNECT_AGAIN_S = 0.2
CONNECT_S = 5.0


class Member:
    """A node as its coordinator sees it. `make_gang` prepares the start that a `start` message describes."""

    def __init__(self, link: Link, make_gang: MakeGang, say: Callable[[str], None]) -> None:
        self._link, self._make_gang, self._say = link, make_gang, say
        self._gang: Gang | None = None
        self._task: asyncio.Task[None] | None = None
        self._ending: Ending | None = None
        self._stopping: str | None = None

    async def serve(self) -> int:
        """Do as the coordinator says until it says to finish. Returns the exit code."""
        while (message := await self._link.receive()) is not None:
            if message["type"] == "finish":
                return int(str(message["exit_code"]))
            if message["type"] == "refused":
                raise ConfigError(f"the supervisor of node 0 refuses this node: {message['reason']}")
            await self._obey(message)
        return await self._left_alone()

    async def stop(self, kind: str) -> None:
        """Stop this node, and have the others stop too."""
        self._stop_gang(kind)
        await self._link.send({"type": "stop", "kind": kind})

    async def _obey(self, message: Message) -> None:
        if message["type"] == "start":
            self._gang = self._make_gang(message)
            self._ending = None
            self._task = asyncio.create_task(self._run(self._gang))
            if self._stopping:
                self._stop_gang(self._stopping)
        elif message["type"] == "stop":
            self._stop_gang("stop")
        elif message["type"] == "abort" and self._gang is not None:
            if message.get("dump"):
                await self._gang.dump_and_kill()
            self._gang.kill()

    def _stop_gang(self, kind: str) -> None:
        self._stopping = kind
        if self._gang is not None and kind == "cancel":
            self._gang.kill()
        elif self._gang is not None:
            self._gang.stop()

    async def _run(self, gang: Gang) -> None:
        try:
            self._ending = await gang.run()
        except Exception as error:  # noqa: BLE001 - the coordinator waits for an answer, whatever happened here
            self._ending = Ending(End.FAILED, time.time(), failure_of(error, gang.plan.node))
        await self._link.send(messages.ended(self._ending))

    async def _left_alone(self) -> int:
        """The coordinator is gone, so nobody could agree on another start: stop, with a save where there can be one."""
        self._say("the connection to the supervisor of node 0 ended: stopping")
        self._stop_gang("stop")
        if self._task is not None:
            await self._task
        stopped = self._ending is not None and self._ending.end in (End.STOPPED, End.COMPLETED)
        return ExitCode.PREEMPTED if stopped else ExitCode.FAILED


async def connect(
    host: str, port: int, hello: Message, limit_s: float, stopped: Callable[[], Awaitable[bool]]
) -> messages.TcpLink | None:
    """A link to the coordinator, which may not listen yet; None if a stop came first.

    Raises: PeerLostError if there is none within the time.
    """
    deadline = time.monotonic() + limit_s
    while not await stopped():
        try:
            opening = asyncio.open_connection(host, port, limit=messages.LONGEST_LINE_BYTES)
            reader, writer = await asyncio.wait_for(opening, CONNECT_S)
        except OSError as error:  # TimeoutError is one: packets to a machine that is gone get no answer at all
            if time.monotonic() > deadline:
                why = error.strerror or str(error) or "no answer"
                text = f"the supervisor of node 0 did not answer at {host}:{port} within {limit_s:g} s: {why}"
                raise PeerLostError(text) from error
            await asyncio.sleep(CONNECT_AGAIN_S)
            continue
        link = messages.TcpLink(reader, writer)
        await link.send(hello)
        return link
    return None
