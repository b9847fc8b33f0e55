"""Following an attempt: what is shown, what signals do, and what happens when nobody looks any more."""

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from torchrelay.contract import layout, object_reading, records
from torchrelay.contract.errors import StorageError
from torchrelay.contract.events import Event
from torchrelay.contract.records import AttemptRecord, RunRecord
from torchrelay.contract.storage import LocalStorage, Storage, open_storage
from torchrelay_launch import following
from torchrelay_launch.following import Following
from torchrelay_launch.interrupts import Interrupts
from torchrelay_launch.sessions import follow_to_end
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.starting import Started
from torchrelay_launch.tailing import LogTail, Tail


class FakeHandle:
    """An attempt that ends as scripted: each poll takes the next of `codes`."""

    def __init__(self, *codes: int | None) -> None:
        self.codes = list(codes)
        self.asked: list[str] = []
        self.backend_id = "1"
        self.notes: tuple[str, ...] = ()

    def poll(self) -> int | None:
        return self.codes.pop(0) if len(self.codes) > 1 else self.codes[0]

    def stop(self) -> None:
        self.asked.append("stop")
        self.codes = [None, None, 75]

    def kill(self) -> None:
        self.asked.append("kill")
        self.codes = [None, 137]

    def detach(self) -> None:
        self.asked.append("detach")


class Recorder:
    """A view that remembers, and may fail or signal when it is shown something."""

    def __init__(self, on_show: Callable[[], None] = lambda: None) -> None:
        self.lines: list[str] = []
        self.said: list[str] = []
        self.on_show = on_show

    def show(self, lines: list[str], found: list[Event]) -> None:
        self.lines += lines
        self.on_show()

    def say(self, text: str) -> None:
        self.said.append(text)


def follow(storage: Storage, handle: FakeHandle, view: Recorder) -> int:
    with Interrupts() as interrupts:
        return Following(storage, 1, handle, interrupts, view).until_end()


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_everything_that_was_logged_is_shown_and_the_exit_code_is_the_attempts(storage: LocalStorage) -> None:
    storage.append(layout.node_log(1, 0), b"[node 0] one\n[node 0] no line end")
    storage.append(layout.node_log(1, 1), b"[node 1] two\n")
    view = Recorder()
    assert follow(storage, FakeHandle(None, 70), view) == 70
    assert view.lines == ["[node 0] one", "[node 1] two", "[node 0] no line end"]


class WaitingHandle(FakeHandle):
    """An attempt whose cluster says why it does not begin."""

    def __init__(self, *says: str) -> None:
        super().__init__(*(None for _ in says), 0)
        self.says, self._next = "", list(says)

    def poll(self) -> int | None:
        self.says = self._next.pop(0) if self._next else ""
        return super().poll()


def test_what_who_started_it_should_know_is_said(storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    records.create_run(storage, RunRecord("j-1", "j", 0.0, "0"))
    attempt, handle = AttemptRecord(1, "local", 0.0, "here", "/w"), FakeHandle(0)
    handle.notes = ("the cluster warns: no such class",)
    with Interrupts() as interrupts:
        follow_to_end(Started(storage, attempt, handle), JobSpec(name="j", script="x.py"), interrupts)
    assert capsys.readouterr().err.splitlines()[:2] == ["the cluster warns: no such class", f"run {storage.url}"]


def test_why_an_attempt_waits_is_said_once(storage: LocalStorage) -> None:
    view = Recorder()
    assert follow(storage, WaitingHandle("no node", "no node", "", "no node", "no image"), view) == 0
    assert view.said == ["no node", "no image"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_cleanly(storage: LocalStorage, number: signal.Signals) -> None:
    handle, sent = FakeHandle(None), []

    def once() -> None:
        if not sent:
            sent.append(os.kill(os.getpid(), number))

    view = Recorder(once)
    assert follow(storage, handle, view) == 75
    assert handle.asked == ["stop"]
    assert view.said == ["stopping after this step, saving a checkpoint (Ctrl-C again to kill)"]


def test_a_second_signal_kills_and_gives_130(storage: LocalStorage) -> None:
    handle = FakeHandle(None)

    def until_killed() -> None:
        if len(handle.asked) < 2:
            os.kill(os.getpid(), signal.SIGINT)

    assert follow(storage, handle, Recorder(until_killed)) == 130
    assert handle.asked == ["stop", "kill"]


def test_earlier_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before
    assert signal.getsignal(signal.SIGINT) == before


@pytest.fixture
def afar() -> Storage:
    return open_storage(f"memory://following-{os.urandom(4).hex()}")


def test_everything_that_was_logged_is_shown_from_object_storage(
    afar: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    read_from = type(afar).read_from
    monkeypatch.setattr(type(afar), "read_from", lambda *args: time.sleep(0.05) or read_from(*args))
    monkeypatch.setattr(following, "OBJECT_STORAGE_LOOK_S", 0.1)
    afar.append(layout.node_log(1, 0), b"[node 0] one\n")
    afar.flush()
    more = [b"[node 0] two\n", b"[node 0] no line end"]

    def go_on() -> None:
        if view.lines and more:
            afar.append(layout.node_log(1, 0), more.pop(0))
            afar.flush()

    view = Recorder(go_on)
    assert follow(afar, FakeHandle(*[None] * 20, 0), view) == 0
    assert view.lines == ["[node 0] one", "[node 0] two", "[node 0] no line end"]


def test_a_signal_is_heard_while_object_storage_does_not_answer(afar: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    monkeypatch.setattr(LogTail, "new_lines", lambda *_, **__: answers.wait() and [])
    monkeypatch.setattr(following, "LAST_LOOK_S", 0.2)
    sent: list[object] = []
    view = Recorder(lambda: sent or sent.append(os.kill(os.getpid(), signal.SIGINT)))
    assert follow(afar, FakeHandle(None), view) == 75
    answers.set()


def test_object_storage_that_cannot_be_read_ends_nothing_and_is_named_once(
    afar: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(100))

    def away_at_first(*_: object, **__: object) -> list[str]:
        number = next(looks)
        if number < 3:
            raise StorageError(f"the bucket is away, tried for {number} s")
        return ["[node 0] hello"] if number == 3 else []

    monkeypatch.setattr(LogTail, "new_lines", away_at_first)
    monkeypatch.setattr(following, "OBJECT_STORAGE_LOOK_S", 0.0)
    view, handle = Recorder(), FakeHandle(*[None] * 10, 0)
    assert follow(afar, handle, view) == 0
    assert handle.asked == []
    assert view.lines == [
        "torchrelay: its logs cannot be read now: the bucket is away, tried for 0 s",
        "torchrelay: its logs can be read again",
        "[node 0] hello",
    ]


def test_polling_object_storage_reads_only_what_is_new(afar: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    afar.append("log", b"x" * 1000 + b"\n")
    afar.flush()
    tail, read = Tail(afar, "log"), []
    assert len(tail.new_lines()) == 1
    reading = object_reading.read_range
    monkeypatch.setattr(
        object_reading, "read_range", lambda c, f, start, end: read.append(end - start) or reading(c, f, start, end)
    )
    assert tail.new_lines() == []
    afar.append("log", b"new\n")
    afar.flush()
    assert tail.new_lines() == [b"new"]
    assert read == [0, 4]


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO])
def test_when_nobody_reads_any_more_the_run_is_stopped(storage: LocalStorage, number: int) -> None:
    def fail() -> None:
        raise OSError(number, os.strerror(number))

    handle = FakeHandle(None)
    assert follow(storage, handle, Recorder(fail)) == 75
    assert handle.asked == ["stop"]


def test_a_full_disk_under_our_output_stops_nothing(storage: LocalStorage) -> None:
    def fail() -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    handle = FakeHandle(None, None, 0)
    assert follow(storage, handle, Recorder(fail)) == 0
    assert handle.asked == []
