"""Lines out of whatever bytes come, without secrets, into a log that may fail."""

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.contract.errors import StorageError
from torchrelay.contract.log_lines import LogLine
from torchrelay.contract.storage import LocalStorage
from torchrelay_launch.supervisor.output import LONGEST_LINE_BYTES, LineSplitter, NodeLog, Redactor, TorchrunOutput
from torchrelay_launch.supervisor.rank_output import RankOutput


def splitter(*hidden: str) -> LineSplitter:
    return LineSplitter(Redactor(hidden))


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_pieces_do_not_change_the_lines(pieces: list[bytes]) -> None:
    whole, cut = splitter("secret"), splitter("secret")
    lines = whole.feed(b"".join(pieces)) + whole.finish()
    assert [line for piece in pieces for line in cut.feed(piece)] + cut.finish() == lines


def test_lines_ends_and_garbage() -> None:
    lines = splitter()
    assert lines.feed(b"a\r\nb\rc\n\n\xff\x00\nrest") == ["a", "c", "", "\ufffd\x00"]
    assert lines.finish() == ["rest"]
    assert lines.finish() == []


def test_very_long_lines_are_cut_and_memory_is_bounded() -> None:
    lines = splitter()
    found = lines.feed(b"x" * (3 * LONGEST_LINE_BYTES))
    assert sum(map(len, found)) == 2 * LONGEST_LINE_BYTES
    assert len(lines._rest) <= LONGEST_LINE_BYTES
    assert "".join(found + lines.finish()) == "x" * (3 * LONGEST_LINE_BYTES)


def test_secrets_are_hidden_even_across_pieces_and_cuts() -> None:
    lines = splitter("hunter22", "BEGIN\nkey-line-2\nEND")
    assert lines.feed(b"password hun") == []
    assert lines.feed(b"ter22!\nkey-line-2 END\n") == ["password ***!", "*** END"]
    for before in range(LONGEST_LINE_BYTES - 12, LONGEST_LINE_BYTES + 2):
        long = splitter("hunter22")
        found = "".join(long.feed(b"x" * before + b"hunt") + long.feed(b"er22" + b"y" * 99) + long.finish())
        assert "hunter22" not in found
        assert found.count("***") == 1


def test_short_values_are_not_hidden() -> None:
    assert Redactor(["1", "abcd"]).text("1 abcde") == "1 ***e"


class Flaky(LocalStorage):
    """A storage that fails while told to."""

    failing = False

    def append(self, path: str, data: bytes) -> None:
        if self.failing:
            raise StorageError("away")
        super().append(path, data)


@pytest.fixture
def flaky(tmp_path: Path) -> Flaky:
    return Flaky(tmp_path)


def test_log_survives_a_storage_that_fails(flaky: Flaky, capfd: pytest.CaptureFixture[str]) -> None:
    log = NodeLog(flaky, "logs/node-00.log", 0, Redactor(["hunter22"]))

    async def scenario() -> None:
        log.say("one hunter22")
        flaky.failing = True
        await log.flush()
        log.say("two")
        await log.flush()
        flaky.failing = False
        log.say("three")
        await log.flush()

    asyncio.run(scenario())
    assert flaky.read("logs/node-00.log").decode() == "[node 0] one ***\n[node 0] two\n[node 0] three\n"
    assert capfd.readouterr().out.count("the log cannot be written: away") == 1


def test_log_that_several_tasks_flush_has_every_line_once(flaky: Flaky) -> None:
    log = NodeLog(flaky, "log", 0, Redactor())

    async def scenario() -> None:
        for number in range(50):
            log.say(str(number))
            await asyncio.gather(log.flush(), log.flush(), log.flush())

    asyncio.run(scenario())
    assert flaky.read("log").decode().splitlines() == [f"[node 0] {number}" for number in range(50)]
    assert log._pending_bytes == 0


def test_log_that_cannot_keep_up_says_what_it_lost(flaky: Flaky) -> None:
    log = NodeLog(flaky, "log", 0, Redactor())

    async def scenario() -> None:
        flaky.failing = True
        for _ in range(200):
            log.add(LogLine(0, 1, "x" * LONGEST_LINE_BYTES))
        await log.flush()
        assert log.crowded
        flaky.failing = False
        await log.flush()
        await log.flush()

    asyncio.run(scenario())
    assert "lines were lost here" in flaky.read("log").decode()
    assert not log.crowded


def test_torchruns_own_lines_are_kept_apart_from_what_it_repeats(flaky: Flaky) -> None:
    log = NodeLog(flaky, "log", 2, Redactor())
    output = TorchrunOutput(log)
    output._take(["W1121 starting", "<torchrelay rank 0> hello", "warn: <torchrelay rank 1> half"])
    asyncio.run(log.flush())
    assert flaky.read("log").decode() == "[node 2 torchrun] W1121 starting\n[node 2 torchrun] warn: \n"


def test_ranks_files_are_read_to_the_last_byte(flaky: Flaky, tmp_path: Path) -> None:
    folder = tmp_path / "scratch"
    (folder / "run_x" / "attempt_0" / "1").mkdir(parents=True)
    log = NodeLog(flaky, "log", 0, Redactor())
    output = RankOutput(folder, log, lambda local_rank: local_rank + 4)
    errors = folder / "run_x" / "attempt_0" / "1" / "stderr.log"
    errors.write_bytes(b"first\nsec")

    async def scenario() -> None:
        output.read_on()
        with errors.open("ab") as file:
            file.write(b"ond\nlast without end")
        await output.drain()
        await log.flush()

    asyncio.run(scenario())
    assert flaky.read("log").decode().splitlines() == [
        "[node 0 rank 5] first",
        "[node 0 rank 5] second",
        "[node 0 rank 5] last without end",
    ]
    assert list(output.stderr[5]) == ["first", "second", "last without end"]
