"""What went wrong first, out of all that is known when a gang has ended: pure."""

import re
import signal
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import Failure
from torchrelay.contract.reports import RankReport
from torchrelay_launch.supervisor import torchrun_report

SIGNALLED = 128
CLEAN = (ExitCode.COMPLETED, ExitCode.PREEMPTED)
_TAIL_LINES = 20


@dataclass(frozen=True)
class Death:
    """The end of a rank's process, as the kernel told it. `exit_code`: -n for signal n; None if it is not known."""

    rank: int
    at: float  # seconds since the epoch
    exit_code: int | None


@dataclass(frozen=True)
class Evidence:
    """All that is known of a gang's end on one node."""

    node: int
    reports: Sequence[RankReport] = ()
    deaths: Sequence[Death] = ()
    torchrun_code: int = 1
    torchrun_lines: Sequence[str] = ()
    stderr: Mapping[int, Sequence[str]] = field(default_factory=dict)  # rank -> the last lines


def first_failure(evidence: Evidence) -> Failure:
    """The cause: a rank's own word first, then how the first rank died, then what torchrun says."""
    failing = [report for report in evidence.reports if report.exit_code not in CLEAN]
    own = next((report for report in failing if not _peer_lost(report)), None)
    reported = {report.rank for report in failing}
    death = _first_death([one for one in evidence.deaths if one.rank not in reported])
    if own and not (death and death.at < own.at):
        return _of_report(own, evidence.node)
    if death:
        return _of_exit(death.rank, death.exit_code or 0, evidence)
    if failing:
        return _of_report(failing[0], evidence.node)
    return _of_torchrun(evidence)


def failure_of(error: Exception, node: int) -> Failure:
    """The failure of a supervisor that could not do its part; with a traceback if the mistake is its own."""
    if isinstance(error, TorchrelayError):
        return Failure(str(error), error.exit_code, node=node, retryable=error.retryable)
    text = f"the supervisor of node {node} failed: {type(error).__name__}: {error}"
    return Failure(text, ExitCode.FAILED, node=node, traceback="".join(traceback.format_exception(error)))


def no_progress(seconds: float, node: int) -> Failure:
    """The failure of a gang whose ranks make no progress."""
    stacks = "the stacks of all ranks are in the log"
    error = f"no rank of node {node} made progress for {seconds:.0f} s (restarts.watchdog); {stacks}"
    return Failure(error, ExitCode.NO_PROGRESS, node=node)


def exit_code_of(process_code: int) -> int:
    """As a shell has it: 128+n for signal n."""
    return process_code if process_code >= 0 else SIGNALLED - process_code


def signal_name(number: int) -> str:
    """SIGKILL for 9; real-time signals have no name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_traceback(lines: Sequence[str]) -> str:
    """The last traceback among lines of stderr, or the last lines if there is none."""
    start = next((i for i in range(len(lines) - 1, -1, -1) if lines[i].startswith("Traceback (most recent")), None)
    if start is None:
        return "\n".join(lines[-_TAIL_LINES:]).strip()
    end = next((i for i in range(start + 1, len(lines)) if re.match(r"\S", lines[i])), len(lines) - 1)
    return "\n".join(lines[start : end + 1])


def _first_death(deaths: Sequence[Death]) -> Death | None:
    """The first rank that did not just end well or get torchrun's SIGTERM, which is how the others end."""
    telling = [one for one in deaths if one.exit_code not in (None, 0, -signal.SIGTERM)]
    return min(telling, key=lambda one: one.at, default=None)


def _peer_lost(report: RankReport) -> bool:
    return report.failure is not None and report.failure.peer_lost


def _of_report(report: RankReport, node: int) -> Failure:
    failure = report.failure or Failure(f"rank {report.rank} ended with exit code {report.exit_code}", report.exit_code)
    values = {**failure.__dict__, "rank": report.rank, "node": node}
    return Failure(**values)


def _of_exit(rank: int, process_code: int, evidence: Evidence) -> Failure:
    who = f"rank {rank} (node {evidence.node})"
    if process_code < 0:
        error, shown = f"{who} was killed by {signal_name(-process_code)}", ""
    else:
        shown = last_traceback(list(evidence.stderr.get(rank, ())))
        last_line = shown.rpartition("\n")[2]
        error = f"{who} ended with exit code {process_code}" + (f": {last_line}" if last_line else "")
    return Failure(error, exit_code_of(process_code), rank, evidence.node, traceback=shown)


def _of_torchrun(evidence: Evidence) -> Failure:
    lines = list(evidence.torchrun_lines)
    cause = torchrun_report.root_cause(lines)
    if cause is not None:
        failure = _of_exit(cause.rank, cause.exit_code, evidence)
        if cause.traceback and not failure.traceback:
            return Failure(**{**failure.__dict__, "traceback": cause.traceback})
        return failure
    who = f"torchrun (node {evidence.node})"
    if evidence.torchrun_code > SIGNALLED:
        name = signal_name(evidence.torchrun_code - SIGNALLED)
        return Failure(f"{who} was killed by {name}", evidence.torchrun_code, node=evidence.node)
    why = torchrun_report.own_error(lines) or f"exit code {evidence.torchrun_code}"
    if torchrun_report.wrong_usage(lines):
        error = f"torchrun refused its options, see `torchrun:` in the spec: {why}"
        return Failure(error, ExitCode.CONFIG, node=evidence.node, retryable=False)
    if "No module named 'torch'" in why:
        return Failure(TORCH_MISSING, ExitCode.CONFIG, node=evidence.node, retryable=False)
    return Failure(f"{who} failed: {why}", ExitCode.FAILED, node=evidence.node)


TORCH_MISSING = "torch is not installed here: pip install torchrelay[train]"
