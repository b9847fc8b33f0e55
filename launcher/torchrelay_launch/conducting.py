"""The runs of a sweep one after another, as `run`, `submit` and `resume` do it on this machine."""

import time
from collections.abc import Callable, Sequence

from torchrelay.contract import records
from torchrelay.contract.exit_codes import ExitCode
from torchrelay_launch.display.naming import name_for_user
from torchrelay_launch.display.style import note
from torchrelay_launch.display.sweep_table import results_text
from torchrelay_launch.following import INTERRUPTED
from torchrelay_launch.interrupts import Interrupts
from torchrelay_launch.results import results_of
from torchrelay_launch.runs.locate import open_for
from torchrelay_launch.runs.sweeps import Sweep, last_request
from torchrelay_launch.sessions import follow_to_end
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.starting import Started
from torchrelay_launch.sweeping import plan_of_point, start_point

Start = Callable[[], tuple[Started, JobSpec] | None]  # None if somebody else has started it meanwhile


def one_after_another(
    sweep: Sweep, starts: Sequence[tuple[int, Start]], *, quiet: bool = False, verbose: bool = False
) -> int:
    """Start each of these points when the one before has ended, and follow it to its end.

    One that fails does not keep the others from being run; Ctrl-C, or `torchrelay stop` of the sweep, does.

    Returns: 0 if all completed, 75 or 130 if it was interrupted, else 70.
    """
    asked = last_request(sweep)
    codes: list[int] = []
    left = len(starts)
    with Interrupts() as interrupts:
        for number, start in starts:
            if interrupts.count or last_request(sweep) != asked:
                break
            left -= 1
            note(f"\npoint {number} of {len(sweep.numbers)}: {sweep.label(number)}", quiet=quiet)
            found = start()
            if found is None:
                note("it is being run already", quiet=quiet)
                continue
            started, job = found
            if last_request(sweep) != asked:  # it came while this one was being started
                started.handle.stop()
            codes.append(follow_to_end(started, job, interrupts, quiet=quiet, verbose=verbose))
        stopped = bool(interrupts.count) or last_request(sweep) != asked
    return _code(codes, stopped=stopped, left=left)


def _code(codes: list[int], *, stopped: bool, left: int) -> int:
    if INTERRUPTED in codes:
        return INTERRUPTED
    if stopped and (left or int(ExitCode.PREEMPTED) in codes):
        return int(ExitCode.PREEMPTED)
    return 0 if not any(codes) else int(ExitCode.FAILED)


def starting(sweep: Sweep, number: int) -> Start:
    """What starts a point that has not been started yet."""

    def start() -> tuple[Started, JobSpec] | None:
        what = plan_of_point(sweep, number)
        if records.attempt_numbers(open_for(what.job, sweep.run_url(number))):
            return None
        return start_point(sweep, number, what, tethered=True), what.job

    return start


def show_results(sweep: Sweep, *, quiet: bool = False) -> None:
    """Print the table that `ls --sweep` prints, and how to come back to it."""
    print(f"\n{results_text(results_of(sweep), time.time())}", flush=True)  # noqa: T201 - this is the result
    note(f"`torchrelay ls --sweep {name_for_user(sweep.storage.url)}` shows this again", quiet=quiet)
