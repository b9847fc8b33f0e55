"""An attempt followed from its start to the closing summary, or let go: what `run`, `submit` and `resume` share."""

import contextlib
import os
import sys
from contextlib import AbstractContextManager, nullcontext

from torchrelay.contract import events
from torchrelay_launch.display.naming import name_for_user
from torchrelay_launch.display.plain import PlainView, SilentView
from torchrelay_launch.display.style import note
from torchrelay_launch.display.summary import summary
from torchrelay_launch.following import Following, View
from torchrelay_launch.interrupts import Interrupts
from torchrelay_launch.progress import Progress
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.starting import Started


def follow_to_end(
    started: Started, job: JobSpec, interrupts: Interrupts, *, quiet: bool = False, verbose: bool = False
) -> int:
    """Follow an attempt and print the closing summary. Returns the exit code."""
    for text in (*started.handle.notes, f"run {started.storage.url}"):
        note(text, quiet=quiet)
    with _view(started, job, quiet=quiet, verbose=verbose) as view:
        code = Following(started.storage, started.attempt.number, started.handle, interrupts, view).until_end()
    status = run_status(started.storage)
    progress = Progress().take_all(events.read_all(started.storage))
    try:
        print(summary(status, progress, job), flush=True)  # noqa: T201 - this is the result
    except OSError:  # whoever read our output has left; the exit code is still the job's
        _drop_stdout()
    return code


def let_go(started: Started, *, quiet: bool = False) -> None:
    """Let an attempt go on without this launcher. Prints the run's URL, alone, on stdout."""
    started.handle.detach()
    print(started.storage.url, flush=True)  # noqa: T201 - this is the result
    name = name_for_user(started.storage.url)
    follows = f"started; `torchrelay logs {name} -f` follows it, `torchrelay stop {name}` stops it"
    for text in (*started.handle.notes, follows):
        note(text, quiet=quiet)


def _view(started: Started, job: JobSpec, *, quiet: bool, verbose: bool) -> AbstractContextManager[View]:
    if quiet:
        return nullcontext(SilentView())
    if not sys.stdout.isatty() or os.environ.get("TERM") == "dumb":
        return nullcontext(PlainView(verbose=verbose))
    from torchrelay_launch.display.live import LiveLine, live_view

    ranks = job.resources.nodes.minimum * job.resources.world_procs_per_node
    doing = "starting" if job.train else "running"
    waiting = f"{doing} {ranks} rank{'s' if ranks > 1 else ''}"
    return live_view(LiveLine(job.name, waiting, started.attempt.number), verbose=verbose)


def _drop_stdout() -> None:
    """Keep Python from complaining when it flushes stdout at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
