"""Draws docs/images/run.svg: what `torchrelay run` shows on a terminal, from the records of a real run.

    torchrelay run jobs/digits.yaml         # press Ctrl-C somewhere in the middle
    torchrelay resume RUN
    python docs/images/make_run_picture.py RUN_FOLDER

The first attempt is drawn as it was when it was stopped, with its live line, and then the resumed one to its end.
"""

import io
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from torchrelay.contract import events, layout, records
from torchrelay.contract.records import SpecRecord
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch.display.live import LiveLine, LiveView
from torchrelay_launch.display.summary import summary
from torchrelay_launch.progress import Progress
from torchrelay_launch.runs import run_status
from torchrelay_launch.spec.reader import load_resolved
from torchrelay_launch.tailing import EventTail, LogTail, is_progress

WIDTH = 108
SHOWN_LOG_LINES = 4  # of each attempt, the last ones
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)  # of rich's template: nothing is fetched from elsewhere
PICTURE = Path(__file__).with_name("run.svg")


class NoLive:
    """Stands in for rich's Live, whose line is printed here once instead of being redrawn."""

    def update(self, renderable: object, *, refresh: bool) -> None:
        pass


def attempt_text(console: Console, storage: Storage, number: int, name: str, *, upto: int | None) -> None:
    """The end of an attempt's log, and its live line as it was at step `upto`."""
    line = LiveLine(name, "", number)
    found = EventTail(storage, number).new_events()
    line.progress.take_all(event for event in found if upto is None or int(str(event.get("step") or 0)) <= upto)
    lines = [text for text in LogTail(storage, number).new_lines() if not is_progress(text)]
    view = LiveView(console, NoLive(), line, verbose=False)  # type: ignore[arg-type]
    view.show([text for text in lines if "evaluation" in text][-SHOWN_LOG_LINES:], [])
    console.print(line.render(WIDTH))


def draw(url: str) -> str:
    """The picture of the run at a URL, as SVG."""
    storage = open_storage(url)
    status = run_status(storage)
    record = records.read(storage, SpecRecord, layout.attempt_file(1, "spec"))
    assert record is not None
    job = load_resolved(record.spec)
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, highlight=False)
    console.print(Text("$ torchrelay run jobs/digits.yaml", style="bold"))
    stopped_at = status.history[0].step
    attempt_text(console, storage, 1, job.name, upto=stopped_at)
    if len(status.history) > 1:
        console.print(Text("^Cstopping after this step, saving a checkpoint (Ctrl-C again to kill)", style="yellow"))
        console.print(Text(f"stopped  {status.run_id}  {stopped_at}/{status.total_steps} steps", style="yellow"))
        console.print(Text(f"\n$ torchrelay resume {status.run_id}", style="bold"))
        attempt_text(console, storage, len(status.history), job.name, upto=None)
    text = summary(status, Progress().take_all(events.read_all(storage)), job)
    shown = text.replace(f"{storage.url.rpartition('/')[0]}/", "runs/").replace(storage.url, f"runs/{status.run_id}")
    shown = re.sub(r"(describe|resume|logs) runs/", r"\1 ", shown)
    for state, colour in (("completed", "green"), ("stopped", "yellow"), ("failed", "red")):
        shown = re.sub(rf"(?m)^{state}", lambda found, c=colour: f"[{c}]{found[0]}[/]", shown)  # type: ignore[misc]
    console.print(shown, soft_wrap=True)
    return FONT_FACE.sub("", console.export_svg(title="torchrelay"))


def main() -> int:
    if len(sys.argv) != 2:
        sys.stderr.write(__doc__ or "")
        return 2
    PICTURE.write_text(draw(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
