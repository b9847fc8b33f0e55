"""The coordinator, in node 0's supervisor: all nodes start together, and one decision ends or restarts them all."""

import asyncio
import contextlib
import hmac
import logging
import time
from collections.abc import Awaitable, Callable, Set
from dataclasses import dataclass

from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import Failure
from torchrelay_launch.supervisor import messages
from torchrelay_launch.supervisor.gang import End, Ending
from torchrelay_launch.supervisor.messages import Link, Message, TcpLink

logger = logging.getLogger(__name__)

HELLO_S = 10.0
STRANGERS = 64  # connections that have not said hello yet


@dataclass(frozen=True)
class Verdict:
    """What happens after a gang has ended: the attempt ends with `exit_code`, or after a delay all start again."""

    exit_code: int | None = None
    delay_s: float = 0.0


@dataclass(frozen=True)
class Policy:
    """What the coordinator asks of others."""

    port: Callable[[int], int]  # restart -> a port on this machine for the rendezvous
    judge: Callable[[list[Ending], int], Awaitable[Verdict]]  # endings of all nodes, restart
    missing: Callable[[Failure], Awaitable[Verdict]]  # when not all nodes came


class Coordinator:
    """Conducts the nodes of one attempt. `stop` may be called at any time, from any of them."""

    def __init__(self, nodes: int, token: str, address: str, policy: Policy) -> None:
        self.restart = 0
        self.stopping: str | None = None  # "stop" or "cancel"
        self._nodes, self._token, self._address, self._policy = nodes, token, address, policy
        self._links: dict[int, Link] = {}
        self._endings: dict[int, Ending] = {}
        self._changed = asyncio.Event()  # set whenever a node came, ended or was lost, or a stop was asked for
        self._running = self._aborted = False
        self._strangers = 0
        self._readers: set[asyncio.Task[None]] = set()

    def admit(self, node: int, link: Link) -> None:
        """Take a node in that has proved itself."""
        self._links[node] = link
        task = asyncio.create_task(self._listen(node, link))
        self._readers.add(task)
        task.add_done_callback(self._readers.discard)
        self._changed.set()

    async def greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle a new connection: a hello with the token, for a node that is still missing, or it is closed."""
        self._strangers += 1
        try:
            hello = await messages.read_message(reader, HELLO_S) if self._strangers <= STRANGERS else None
        finally:
            self._strangers -= 1
        if hello is None or not self._knows(hello.get("token")):
            writer.close()
            return
        node = hello.get("node")
        reason = self._reason_to_refuse(node)
        if reason:
            writer.write(messages.encode({"type": "refused", "reason": reason}))
            with contextlib.suppress(OSError):
                await writer.drain()
            writer.close()
        elif isinstance(node, int):
            self.admit(node, TcpLink(reader, writer))

    async def conduct(self, join_s: float) -> int:
        """From the first hello to the end. Returns the attempt's exit code, which all nodes have been told."""
        verdict = await self._gather(join_s)
        while verdict.exit_code is None:
            await self._pause(verdict.delay_s)
            verdict = await self._one_gang()
            self.restart += verdict.exit_code is None
        await self._broadcast({"type": "finish", "exit_code": verdict.exit_code})
        return verdict.exit_code

    async def stop(self, kind: str) -> None:
        """Stop all nodes: `stop` lets the ranks save, `cancel` does not. Asking again can only make it a cancel."""
        if self.stopping in ("cancel", kind):
            return
        self.stopping = kind
        self._changed.set()
        if self._running:
            await self._broadcast({"type": "stop"} if kind == "stop" else {"type": "abort", "dump": False})

    def close(self) -> None:
        for link in self._links.values():
            link.close()
        for task in self._readers:
            task.cancel()

    def _knows(self, token: object) -> bool:
        return isinstance(token, str) and hmac.compare_digest(token.encode(errors="replace"), self._token.encode())

    def _reason_to_refuse(self, node: object) -> str | None:
        if not isinstance(node, int) or isinstance(node, bool) or not 0 <= node < self._nodes:
            return f"there is no node {node!r}: this attempt has nodes 0 to {self._nodes - 1}"
        return f"node {node} is here already" if node in self._links else None

    async def _gather(self, join_s: float) -> Verdict:
        """Wait for all nodes."""
        deadline = time.monotonic() + join_s
        while len(self._links) < self._nodes and not self.stopping:
            if not await self._wait_for_change(deadline - time.monotonic()):
                missing = [str(node) for node in range(self._nodes) if node not in self._links]
                who = f"node {missing[0]}" if len(missing) == 1 else f"nodes {', '.join(missing)}"
                error = f"{who} of {self._nodes} did not come within {join_s:g} s"
                return await self._policy.missing(Failure(error, ExitCode.FAILED))
        return Verdict()

    async def _one_gang(self) -> Verdict:
        """Start all nodes' ranks once, and see them to their end."""
        if self.stopping:
            return await self._policy.judge([Ending(End.KILLED, time.time())], self.restart)
        self._aborted, self._running = False, True
        self._endings = {node: _lost(node) for node in range(self._nodes) if node not in self._links}
        await self._broadcast(
            {
                "type": "start",
                "restart": self.restart,
                "master_addr": self._address,
                "master_port": self._policy.port(self.restart) if self._nodes > 1 else 0,
            }
        )
        await self._abort_if_broken()
        while len(self._endings) < self._nodes:
            await self._wait_for_change(None)
            await self._abort_if_broken()
        self._running = False
        return await self._policy.judge(list(self._endings.values()), self.restart)

    async def _abort_if_broken(self) -> None:
        """When one node's ranks have failed or are gone, the others' can only wait for them."""
        broken = [one for one in self._endings.values() if one.end in (End.FAILED, End.KILLED)]
        if broken and not self._aborted and len(self._endings) < self._nodes:
            self._aborted = True
            hung = any(one.failure and one.failure.exit_code == ExitCode.NO_PROGRESS for one in broken)
            await self._broadcast({"type": "abort", "dump": hung}, leave_out=set(self._endings))

    async def _pause(self, delay_s: float) -> None:
        deadline = time.monotonic() + delay_s
        while not self.stopping and (left := deadline - time.monotonic()) > 0:
            await self._wait_for_change(left)

    async def _wait_for_change(self, limit_s: float | None) -> bool:
        try:
            await asyncio.wait_for(self._changed.wait(), None if limit_s is None else max(0.0, limit_s))
        except TimeoutError:
            return False
        self._changed.clear()
        return True

    async def _broadcast(self, message: Message, leave_out: Set[int] = frozenset()) -> None:
        for node, link in list(self._links.items()):
            if node not in leave_out:
                await link.send(message)

    async def _listen(self, node: int, link: Link) -> None:
        while (message := await link.receive()) is not None:
            try:
                await self._hear(node, message)
            except (ValueError, TypeError, KeyError) as error:
                logger.warning("node %d sent a malformed message: %s", node, error)
                break
        link.close()
        self._links.pop(node, None)
        if self._running:
            self._endings.setdefault(node, _lost(node))
        self._changed.set()

    async def _hear(self, node: int, message: Message) -> None:
        if message["type"] == "ended":
            self._endings.setdefault(node, messages.ending_of(message))
            self._changed.set()
        elif message["type"] == "stop":
            await self.stop("cancel" if message.get("kind") == "cancel" else "stop")


def _lost(node: int) -> Ending:
    """Nothing in this attempt can bring a node back, so its loss ends the attempt."""
    error = f"node {node} was lost: the connection to its supervisor ended"
    failure = Failure(error, ExitCode.FAILED, node=node, retryable=False)
    return Ending(End.FAILED, time.time(), failure)
