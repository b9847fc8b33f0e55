"""The coordinator over loopback, with nodes that are played by the test."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from torchrelay.contract.errors import ConfigError, PeerLostError
from torchrelay.contract.records import Failure
from torchrelay_launch.supervisor import member, messages
from torchrelay_launch.supervisor.coordinator import Coordinator, Policy, Verdict
from torchrelay_launch.supervisor.gang import End, Ending
from torchrelay_launch.supervisor.messages import Message, TcpLink

TOKEN = "right"


@dataclass
class Stage:
    """A coordinator that listens, what it asked its policy, and the verdicts that it gets."""

    nodes: int = 2
    verdicts: list[Verdict] = field(default_factory=lambda: [Verdict(0)])
    judged: list[list[Ending]] = field(default_factory=list)
    missed: list[Failure] = field(default_factory=list)
    coordinator: Coordinator = field(init=False)
    port: int = 0

    async def judge(self, endings: list[Ending], restart: int) -> Verdict:
        assert restart == len(self.judged)
        self.judged.append(endings)
        return self.verdicts.pop(0)

    async def missing(self, failure: Failure) -> Verdict:
        self.missed.append(failure)
        return Verdict(70)

    async def link(self, node: object, token: object = TOKEN) -> TcpLink:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        link = TcpLink(reader, writer)
        await link.send({"type": "hello", "node": node, "token": token})  # type: ignore[dict-item]
        return link


def play(stage: Stage, scenario: Callable[[Stage], Awaitable[None]]) -> None:
    async def staged() -> None:
        policy = Policy(lambda restart: 1234 + restart, stage.judge, stage.missing)
        stage.coordinator = Coordinator(stage.nodes, TOKEN, "127.0.0.1", policy)
        server = await asyncio.start_server(stage.coordinator.greet, "127.0.0.1", 0, limit=messages.LONGEST_LINE_BYTES)
        stage.port = server.sockets[0].getsockname()[1]
        try:
            await asyncio.wait_for(scenario(stage), 20)
        finally:
            stage.coordinator.close()
            server.close()

    asyncio.run(staged())


async def heard(link: TcpLink) -> Message:
    message = await asyncio.wait_for(link.receive(), 5)
    assert message is not None
    return message


def ended(end: End, failure: Failure | None = None) -> Message:
    return messages.ended(Ending(end, 1.0, failure))


def test_all_start_together_and_finish_together() -> None:
    async def scenario(stage: Stage) -> None:
        conducting = asyncio.create_task(stage.coordinator.conduct(10))
        first = await stage.link(0)
        await asyncio.sleep(0.05)
        second = await stage.link(1)
        start = {"type": "start", "restart": 0, "master_addr": "127.0.0.1", "master_port": 1234}
        for link in (first, second):
            assert await heard(link) == start
            await link.send(ended(End.COMPLETED))
        for link in (first, second):
            assert await heard(link) == {"type": "finish", "exit_code": 0}
            link.close()
        assert await conducting == 0
        assert [one.end for one in stage.judged[0]] == [End.COMPLETED, End.COMPLETED]

    play(Stage(), scenario)


def test_failure_on_one_node_aborts_the_others_and_all_start_again() -> None:
    async def scenario(stage: Stage) -> None:
        conducting = asyncio.create_task(stage.coordinator.conduct(10))
        links = [await stage.link(node) for node in (0, 1)]
        for link in links:
            await heard(link)
        await links[1].send(ended(End.FAILED, Failure("bad", 70, rank=3)))
        assert await heard(links[0]) == {"type": "abort", "dump": False}
        await links[0].send(ended(End.KILLED))
        assert [(await heard(link))["master_port"] for link in links] == [1235, 1235]
        for link in links:
            await link.send(ended(End.COMPLETED))
        assert await conducting == 0
        assert next(one.failure for one in stage.judged[0]) == Failure("bad", 70, rank=3)
        for link in links:
            link.close()

    play(Stage(verdicts=[Verdict(), Verdict(0)]), scenario)


def test_hang_on_one_node_asks_the_others_for_their_stacks() -> None:
    async def scenario(stage: Stage) -> None:
        conducting = asyncio.create_task(stage.coordinator.conduct(10))
        links = [await stage.link(node) for node in (0, 1)]
        for link in links:
            await heard(link)
        await links[0].send(ended(End.FAILED, Failure("hung", 69)))
        assert await heard(links[1]) == {"type": "abort", "dump": True}
        await links[1].send(ended(End.KILLED))
        await conducting
        for link in links:
            link.close()

    play(Stage(), scenario)


@pytest.mark.parametrize("how", ["closed", "silent", "garbage", "malformed"])
def test_lost_node_aborts_the_others(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if how == "silent":
        monkeypatch.setattr(messages, "PING_S", 0.05)
        monkeypatch.setattr(messages, "SILENT_S", 1.0)

    async def scenario(stage: Stage) -> None:
        conducting = asyncio.create_task(stage.coordinator.conduct(10))
        links = [await stage.link(node) for node in (0, 1)]
        for link in links:
            await heard(link)
        if how == "garbage":
            links[1]._writer.write(b"\x00\xff not json\n")
        elif how == "malformed":
            await links[1].send({"type": "ended", "ending": {"end": "nonsense"}})
        elif how == "silent":  # a machine that is gone without a word, or the way to it
            links[1]._pinging.cancel()
        else:
            links[1].close()
        assert (await heard(links[0]))["type"] == "abort"
        await links[0].send(ended(End.KILLED))
        await conducting
        failure = stage.judged[0][0].failure
        assert failure is not None
        assert failure.error.startswith("node 1 was lost")
        for link in links:
            link.close()

    play(Stage(verdicts=[Verdict(70)]), scenario)


def test_stop_by_one_node_reaches_all() -> None:
    async def scenario(stage: Stage) -> None:
        conducting = asyncio.create_task(stage.coordinator.conduct(10))
        links = [await stage.link(node) for node in (0, 1)]
        for link in links:
            await heard(link)
        await links[1].send({"type": "stop", "kind": "stop"})
        await links[1].send({"type": "stop", "kind": "stop"})
        for link in links:
            assert await heard(link) == {"type": "stop"}
        await links[0].send({"type": "stop", "kind": "cancel"})
        for link in links:
            assert await heard(link) == {"type": "abort", "dump": False}
            await link.send(ended(End.STOPPED))
        assert await conducting == 75
        assert stage.coordinator.stopping == "cancel"
        for link in links:
            link.close()

    play(Stage(verdicts=[Verdict(75)]), scenario)


def test_stop_while_nodes_are_missing_or_during_a_pause_is_at_once() -> None:
    async def scenario(stage: Stage) -> None:
        conducting = asyncio.create_task(stage.coordinator.conduct(100))
        await asyncio.sleep(0.05)
        await stage.coordinator.stop("stop")
        assert await conducting == 75
        assert stage.judged[0][0].end is End.KILLED

    play(Stage(verdicts=[Verdict(75)]), scenario)

    async def paused(stage: Stage) -> None:
        conducting = asyncio.create_task(stage.coordinator.conduct(100))
        link = await stage.link(0)
        await heard(link)
        await link.send(ended(End.FAILED, Failure("bad", 70)))
        while not stage.judged:
            await asyncio.sleep(0.01)
        await stage.coordinator.stop("stop")
        assert await conducting == 75
        link.close()

    play(Stage(nodes=1, verdicts=[Verdict(delay_s=100), Verdict(75)]), paused)


def test_nodes_that_do_not_come_are_named() -> None:
    async def scenario(stage: Stage) -> None:
        link = await stage.link(1)
        assert await stage.coordinator.conduct(0.2) == 70
        assert stage.missed[0].error == "nodes 0, 2 of 3 did not come within 0.2 s"
        link.close()

    play(Stage(nodes=3), scenario)


def test_second_hello_of_a_node_is_refused() -> None:
    async def scenario(stage: Stage) -> None:
        conducting = asyncio.create_task(stage.coordinator.conduct(10))
        first = await stage.link(0)
        while 0 not in stage.coordinator._links:
            await asyncio.sleep(0.01)
        again = await stage.link(0)
        assert await heard(again) == {"type": "refused", "reason": "node 0 is here already"}
        beyond = await stage.link(7)
        assert "there is no node 7" in str((await heard(beyond))["reason"])
        assert not conducting.done()
        conducting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await conducting
        for link in (first, again, beyond):
            link.close()

    play(Stage(), scenario)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\n",
        b"x" * (messages.LONGEST_LINE_BYTES + 10) + b"\n",
        b"[" * 100_000 + b"\n",
        json.dumps({"type": "hello", "node": 0, "token": "wrong"}).encode() + b"\n",
        json.dumps({"type": "hello", "node": 0, "token": 5}).encode() + b"\n",
        json.dumps({"type": "hello", "node": 0, "token": "\udce4"}).encode() + b"\n",
        b"{}\n",
        b"",
    ],
)
def test_strangers_are_shut_out_and_do_no_harm(data: bytes) -> None:
    async def scenario(stage: Stage) -> None:
        conducting = asyncio.create_task(stage.coordinator.conduct(10))
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        with contextlib.suppress(OSError):
            writer.write(data)
            writer.write_eof()
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()
        link = await stage.link(0)
        assert (await heard(link))["type"] == "start"
        await link.send(ended(End.COMPLETED))
        assert await conducting == 0
        link.close()

    play(Stage(nodes=1), scenario)


def test_member_that_is_refused_says_why_and_one_without_a_coordinator_too() -> None:
    async def scenario(stage: Stage) -> None:
        async def never() -> bool:
            return False

        hello: Message = {"type": "hello", "node": 9, "token": TOKEN}
        link = await member.connect("127.0.0.1", stage.port, hello, 5, never)
        assert link is not None
        with pytest.raises(ConfigError, match="there is no node 9"):
            await member.Member(link, lambda _: pytest.fail("started"), print).serve()
        link.close()
        with pytest.raises(PeerLostError, match=r"did not answer at 127\.0\.0\.1:1 within 0\.1 s"):
            await member.connect("127.0.0.1", 1, hello, 0.1, never)

    play(Stage(), scenario)
