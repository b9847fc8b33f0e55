"""What a terminal shows of a run: one line that is redrawn, and clean lines above it."""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time

import pytest
from rich.console import Console
from some_events import STEPS

from torchrelay_launch.display.live import LiveLine, live_view
from torchrelay_launch.display.text import clean
from torchrelay_launch.progress import Progress


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
