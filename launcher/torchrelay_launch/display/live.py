"""A followed attempt on a terminal: its log lines, and below them one line that shows how far it is."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from torchrelay.contract.events import Event
from torchrelay_launch.display import quantities
from torchrelay_launch.display.text import clean
from torchrelay_launch.progress import Progress
from torchrelay_launch.tailing import is_progress, is_torchrun

_BAR_WIDTHS = (10, 32)  # least and most, in characters


@dataclass
class LiveLine:
    """The line itself: name, bar, steps, the metrics that fit, pace and time left."""

    name: str
    waiting: str  # what to say before the first event, such as "starting 2 ranks"
    attempt: int = 1
    progress: Progress = field(default_factory=Progress)
    stopping: bool = False
    began_at: float = field(default_factory=time.time)
    _spinner: Spinner = field(default_factory=lambda: Spinner("dots", style="cyan"))

    def render(self, width: int) -> RenderableType:
        """The line for a terminal of so many characters."""
        total = self.progress.total_steps
        if self.progress.step is None or not total:
            return self._waiting_line()
        head = Text(f"{self.name} ", style="bold", no_wrap=True)
        bar_width = max(_BAR_WIDTHS[0], min(_BAR_WIDTHS[1], width // 5))
        bar = ProgressBar(
            total=total, completed=self.progress.step, width=bar_width, complete_style="cyan", finished_style="green"
        )
        return _in_a_row(head, bar, self._tail(width - len(head) - bar_width - 1))

    def _waiting_line(self) -> RenderableType:
        text = Text(f"{self.name}  ", style="bold")
        text.append("stopping" if self.stopping else self.waiting, style="yellow" if self.stopping else "not bold")
        text.append(f"  {quantities.clock(time.time() - self.began_at)}", style="not bold dim")
        return _in_a_row(self._spinner, Text(" "), text)

    def _tail(self, room: int) -> Text:
        """Everything behind the bar, in order of importance, as far as it fits."""
        text = Text(f" {quantities.steps(self.progress.step, self.progress.total_steps)}", no_wrap=True)
        for part in self._parts():
            if len(text) + 2 + len(part) <= room:
                text.append("  ").append_text(part)
        return text

    def _parts(self) -> Iterator[Text]:
        progress = self.progress
        if self.stopping or progress.stopping:
            yield Text("stopping", style="yellow")
        elif progress.seconds_left is not None:
            yield Text(f"{quantities.clock(progress.seconds_left)} left", style="cyan")
        if "loss" in progress.metrics:
            yield _metric("loss", progress.metrics["loss"])
        for name, value in progress.evaluation.items():
            yield _metric(name, value)
        if pace := progress.metrics.get("samples_per_s"):
            yield Text(quantities.rate(pace), style="dim")
        if progress.gangs > 1:
            yield Text(f"restart {progress.gangs - 1}", style="yellow")
        if self.attempt > 1:
            yield Text(f"attempt {self.attempt}", style="dim")


class LiveView:
    """Prints log lines above the live line. Progress lines of ranks are left out, and torchrun's unless `verbose`."""

    def __init__(self, console: Console, live: Live, line: LiveLine, *, verbose: bool) -> None:
        self._console, self._live, self._line, self._verbose = console, live, line, verbose

    def show(self, lines: list[str], events: list[Event]) -> None:
        self._line.progress.take_all(events)
        shown = [line for line in lines if self._wants(line)]
        if shown:
            self._console.print(Text("\n").join(_log_text(line) for line in shown), soft_wrap=True)
        self._live.update(self._line.render(self._console.width), refresh=True)

    def say(self, text: str) -> None:
        self._line.stopping = True
        self._console.print(Text(text, style="yellow"), soft_wrap=True)

    def _wants(self, line: str) -> bool:
        if is_torchrun(line):
            return self._verbose
        return not (is_progress(line) and self._line.progress.gangs)


@contextmanager
def live_view(line: LiveLine, *, verbose: bool = False, console: Console | None = None) -> Iterator[LiveView]:
    """A view on the terminal, which is tidied up at the end."""
    console = console or Console(highlight=False)
    with Live(console=console, auto_refresh=False, transient=True) as live:
        live.update(line.render(console.width), refresh=True)
        yield LiveView(console, live, line, verbose=verbose)


def _metric(name: str, value: float) -> Text:
    return Text(f"{name} ", style="dim").append(quantities.number(value), style="not dim")


def _log_text(line: str) -> Text:
    """A log line with its origin dimmed; colours that a rank printed are kept."""
    text = Text.from_ansi(clean(line, colour=True))
    end = text.plain.find("] ")
    if text.plain.startswith("[node ") and end > 0:
        text.stylize("dim", 0, end + 1)
    return text


def _in_a_row(*parts: RenderableType) -> Table:
    row = Table.grid()
    for _ in parts:
        row.add_column(no_wrap=True)
    row.add_row(*parts)
    return row
