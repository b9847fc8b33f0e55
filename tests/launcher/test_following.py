"""Following an attempt: what is shown, what signals do, and what happens when nobody looks any more."""

import errno
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from torchrelay.contract import events, layout, object_reading
from torchrelay.contract.errors import StorageError
from torchrelay.contract.events import Event
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage, Storage, open_storage
from torchrelay_launch import following
from torchrelay_launch.display.live import LiveLine, live_view
from torchrelay_launch.display.text import clean
from torchrelay_launch.following import Following
from torchrelay_launch.interrupts import Interrupts
from torchrelay_launch.progress import Progress
from torchrelay_launch.tailing import EventTail, LogTail, Tail, last_metrics

STEPS: list[Event] = [
    {"event": "started", "t": 100.0, "step": 0, "total_steps": 100, "world_size": 2},
    {"event": "step", "t": 101.0, "step": 10, "total_steps": 100, "metrics": {"loss": 0.5, "samples_per_s": 640.0}},
    {"event": "step", "t": 102.0, "step": 20, "total_steps": 100, "metrics": {"loss": 0.25, "samples_per_s": 640.0}},
    {"event": "evaluation", "t": 102.1, "step": 20, "metrics": {"val/loss": 0.3, "val/accuracy": 0.9}},
]


class FakeHandle:
    """An attempt that ends as scripted: each poll takes the next of `codes`."""

    def __init__(self, *codes: int | None) -> None:
        self.codes = list(codes)
        self.asked: list[str] = []
        self.backend_id = "1"

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
    monkeypatch.setattr(LogTail, "new_lines", lambda *_, **__: answers.wait(60) and [])
    monkeypatch.setattr(following, "LAST_LOOK_S", 0.2)
    sent: list[object] = []
    view = Recorder(lambda: sent or sent.append(os.kill(os.getpid(), signal.SIGINT)))
    began = time.monotonic()
    assert follow(afar, FakeHandle(None), view) == 75
    assert time.monotonic() - began < 20
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


def test_a_tail_gives_whole_lines_once(storage: LocalStorage) -> None:
    tail = Tail(storage, "log")
    assert tail.new_lines() == []
    storage.append("log", b"one\ntw")
    assert tail.new_lines() == [b"one"]
    storage.append("log", b"o\n\nthree")
    assert tail.new_lines() == [b"two", b""]
    assert tail.new_lines(final=True) == [b"three"]
    assert tail.new_lines(final=True) == []


def test_a_flood_of_output_is_read_in_pieces_and_to_its_end(storage: LocalStorage) -> None:
    line = b"[node 0] " + b"x" * 1000 + b"\n"
    storage.append(layout.node_log(1, 0), line * 10_000)
    tail = LogTail(storage, 1)
    first = tail.new_lines()
    assert 0 < len(first) < 10_000
    assert len(first) + len(tail.new_lines(final=True)) == 10_000


def test_events_come_gang_by_gang_and_torn_lines_wait(storage: LocalStorage) -> None:
    tail = EventTail(storage, 1)
    storage.append(layout.events_file(Writer(1)), events.encode(STEPS[0]) + b'{"event": "st')
    storage.append(layout.events_file(Writer(2)), events.encode(STEPS[0]))
    assert tail.new_events() == [STEPS[0]]
    storage.append(layout.events_file(Writer(1)), b'ep", "step": 10}\nnot json\n')
    storage.append(layout.events_file(Writer(1, 1)), events.encode(STEPS[1]))
    assert [event["step"] for event in tail.new_events()] == [10, 10]


def test_the_last_metrics_of_an_attempt_without_events_are_the_ones_before(storage: LocalStorage) -> None:
    storage.append(layout.events_file(Writer(1)), b"".join(map(events.encode, STEPS)))
    assert last_metrics(storage, 2) == {"loss": 0.25, "samples_per_s": 640.0, "val/loss": 0.3, "val/accuracy": 0.9}
    assert last_metrics(storage, 0) == {}


def test_progress_knows_pace_and_time_left() -> None:
    progress = Progress().take_all(STEPS)
    assert (progress.step, progress.total_steps, progress.done) == (20, 100, 0.2)
    assert progress.seconds_per_step == pytest.approx(0.1)
    assert progress.seconds_left == pytest.approx(8.0)


def test_what_a_restart_does_again_replaces_what_was_done_before() -> None:
    again: list[Event] = [
        {"event": "evaluation", "step": 30, "metrics": {"val/loss": 0.1}},
        {"event": "started", "t": 200.0, "step": 20, "total_steps": 100},
    ]
    progress = Progress().take_all([*STEPS, *again])
    best = progress.best("val/loss", "min")
    assert best is not None
    assert (best.value, best.step) == (0.3, 20)
    assert progress.seconds_left is None


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event": "step", "step": "7", "metrics": None},
        {"event": "step", "step": True},
        {"event": "evaluation", "step": 3, "metrics": {"val/loss": "nan"}},
        {"event": "started", "t": "now", "total_steps": None},
        {"event": ["unknown"]},
    ],
)
def test_odd_events_do_no_harm(event: Event) -> None:
    progress = Progress().take_all([*STEPS, event])
    assert progress.total_steps == 100


@pytest.mark.parametrize(
    ("line", "plain"),
    [
        ("[node 0 rank 1] \x1b[31mred\x1b[0m", "[node 0 rank 1] red"),
        ("[node 0 rank 1]  10%|#\r 20%|##\r", "[node 0 rank 1]  20%|##"),
        ("[node 0] \x1b[2J\x1b]0;title\x07gone\x07", "[node 0] gone"),
        ("tab\tstays, \x1b alone goes", "tab\tstays,  alone goes"),
    ],
)
def test_lines_are_cleaned(line: str, plain: str) -> None:
    assert clean(line) == plain


def test_colours_stay_for_a_terminal_and_nothing_else_does() -> None:
    assert clean("\x1b[31mred\x1b[0m\x1b[2J\x1b[H", colour=True) == "\x1b[31mred\x1b[0m"


def shown(line: LiveLine, width: int) -> str:
    console = Console(width=width, color_system=None, force_terminal=True, legacy_windows=False)
    with console.capture() as capture:
        console.print(line.render(width))
    return capture.get().rstrip()


def test_the_live_line_drops_what_does_not_fit() -> None:
    line = LiveLine("digits", "starting 2 ranks", progress=Progress().take_all(STEPS))
    wide = shown(line, 140)
    for part in ("digits", "20/100", "0:08 left", "loss 0.2500", "val/loss 0.3000", "val/accuracy 0.9000", "640/s"):
        assert part in wide
    for width in (30, 40, 60, 80):
        text = shown(line, width)
        assert len(text) <= width
        assert "\n" not in text
        assert "20/100" in text


def test_the_live_line_before_the_first_step() -> None:
    assert "digits  starting 2 ranks  0:0" in shown(LiveLine("digits", "starting 2 ranks"), 80)


def test_progress_lines_and_torchruns_are_hidden_behind_the_live_line() -> None:
    console = Console(width=100, color_system=None, force_terminal=True, legacy_windows=False)
    lines = ["[node 0 rank 0] step 10/100 loss 0.5", "[node 0 rank 1] epoch 1", "[node 0 torchrun] W1121 banner"]
    with console.capture() as capture, live_view(LiveLine("digits", "starting"), console=console) as view:
        view.show(lines[:1], [])  # before any event it may be a script's own line
        view.show(lines, STEPS)
    text = capture.get()
    assert text.count("step 10/100") == 1
    assert "[node 0 rank 1] epoch 1" in text
    assert "banner" not in text


SHOW = """
import json, sys, time
from torchrelay_launch.display.live import LiveLine, live_view
with live_view(LiveLine("digits", "starting 2 ranks")) as view:
    for event in json.loads(sys.argv[1]):
        view.show(["[node 0 rank 1] hello \\x1b[2J" + str(event["step"])], [event])
        time.sleep(0.02)
print("the end")
"""


def read_terminal(command: list[str], columns: int) -> str:
    """What a command writes to a terminal of its own."""
    terminal, other_side = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "24"}
    process = subprocess.Popen(command, stdout=other_side, stderr=other_side, env=environment)
    os.close(other_side)
    output, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline and select.select([terminal], [], [], 60)[0]:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # EIO: the other side is closed
            break
        output += data
    os.close(terminal)
    assert process.wait(timeout=10) == 0, output.decode()
    return output.decode()


def screen(output: str) -> list[str]:
    """What stays on the screen: cursor up, erase line, carriage return and line feed played through."""
    rows, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[\??[0-9;]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", output):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        elif piece.startswith("\x1b["):
            count = int(re.sub(r"\D", "", piece) or 1)
            if piece.endswith("A"):
                row -= count
            elif piece.endswith("K"):
                rows[row] = ""
            else:
                assert piece[-1] in "mhl", f"unexpected control sequence {piece!r}"
        else:
            rows[row] = rows[row][:column].ljust(column) + piece + rows[row][column + len(piece) :]
            column += len(piece)
    return [text.rstrip() for text in rows if text.rstrip()]


def test_on_a_real_terminal_the_live_line_is_redrawn_and_leaves_nothing_behind() -> None:
    output = read_terminal([sys.executable, "-c", SHOW, json.dumps(STEPS)], 100)
    assert "20/100" in output
    assert "\x1b[?25l" in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l"), "the cursor must come back"
    expected = [f"[node 0 rank 1] hello {event['step']}" for event in STEPS]
    assert screen(output) == [*expected, "the end"]
