"""How a run stands, from its storage alone."""

import dataclasses
import logging
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from torchrelay.contract import events, layout, records
from torchrelay.contract.errors import StorageError
from torchrelay.contract.exit_codes import ExitCode, Outcome, RunState
from torchrelay.contract.records import AttemptRecord, Failure, Heartbeat, OutcomeRecord, SpecRecord, StopRequest
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Storage, on_object_storage, open_storage
from torchrelay_launch import processes
from torchrelay_launch.runs.observed import Observed, observe

logger = logging.getLogger(__name__)

STARTING_S = 30.0  # an attempt without a heartbeat counts as starting for so long
SILENT_INTERVALS = 6  # heartbeats that an attempt on another machine may miss
EVENTS_TAIL_BYTES = 1 << 16
_AT_ONCE = 8
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class AttemptStatus:
    """One attempt, as `describe` shows it."""

    record: AttemptRecord
    state: RunState
    outcome: OutcomeRecord | None
    heartbeat: Heartbeat | None
    stop: StopRequest | None
    step: int | None  # last step that its events or its outcome name
    total_steps: int | None
    logs: tuple[str, ...]  # paths below the run
    observed: Observed | None = None  # what the backend adds; asked of the newest attempt only

    @property
    def restarts(self) -> int:
        """How often the ranks were started again within the attempt."""
        return self.outcome.restarts if self.outcome else self.heartbeat.restart if self.heartbeat else 0

    @property
    def failure(self) -> Failure | None:
        return self.outcome.failure if self.outcome else None

    @property
    def exit_code(self) -> int | None:
        return self.outcome.exit_code if self.outcome else None


@dataclass(frozen=True)
class RunStatus:
    """A run, as `status` and `describe` show it. The fields up to `error` are those of `status --json`."""

    run_id: str
    url: str
    state: RunState
    step: int | None
    total_steps: int | None
    attempts: int
    backend: str
    backend_id: str
    last_checkpoint_step: int | None
    exit_code: int | None
    error: str | None

    name: str = ""
    created_at: float = 0.0
    torchrelay: str = ""
    live: bool = False  # whether a supervisor runs, or is about to
    sweep: str = ""  # the sweep that it is a run of
    point: int = 0
    values: dict[str, Json] = field(default_factory=dict)  # what the sweep sets
    history: tuple[AttemptStatus, ...] = ()
    checkpoint_steps: tuple[int, ...] = ()

    def json(self) -> dict[str, Json]:
        """What `status --json` prints."""
        return {
            "run_id": self.run_id,
            "url": self.url,
            "state": str(self.state),
            "step": self.step,
            "total_steps": self.total_steps,
            "attempts": self.attempts,
            "backend": self.backend,
            "backend_id": self.backend_id,
            "last_checkpoint_step": self.last_checkpoint_step,
            "exit_code": self.exit_code,
            "error": self.error,
        }

    @property
    def unreachable(self) -> str:
        """Why the backend cannot be asked now whether the run goes on; an empty text if it was, or need not be."""
        observed = self.history[-1].observed if self.history else None
        return observed.says if observed is not None and observed.unreachable else ""

    @property
    def failure(self) -> Failure | None:
        """What went wrong first in the newest attempt."""
        return self.history[-1].failure if self.history else None


def run_status(storage: Storage) -> RunStatus:
    """How the run in this storage stands. Raises: ConfigError if there is none; StorageError."""
    run = records.read_run(storage)
    history = tuple(_attempt_status(storage, number) for number in records.attempt_numbers(storage))
    history = (*history[:-1], *(_as_observed(storage, one) for one in history[-1:]))
    steps = checkpoint_steps(storage)
    last = history[-1] if history else None
    known = [one for one in history if one.step is not None]
    state = last.state if last else RunState.PENDING
    return RunStatus(
        run_id=run.run_id,
        url=storage.url,
        state=state,
        step=known[-1].step if known else None,
        total_steps=next((one.total_steps for one in reversed(known) if one.total_steps is not None), None),
        attempts=last.record.number if last else 0,
        backend=last.record.backend if last else "",
        backend_id=_backend_id(last),
        last_checkpoint_step=steps[0] if steps else None,
        exit_code=_exit_code(last),
        error=_error(last, run.run_id, steps),
        name=run.name,
        created_at=run.created_at,
        torchrelay=run.torchrelay,
        sweep=run.sweep,
        point=run.point,
        values=run.values,
        live=state in (RunState.PENDING, RunState.RUNNING) and last is not None,
        history=history,
        checkpoint_steps=tuple(sorted(set(steps))),
    )


def list_runs(root_url: str) -> list[RunStatus]:
    """All runs under a storage, the newest first; those that cannot be read are warned of. Raises: StorageError."""
    root = open_storage(root_url)
    names = root.list("")
    found = [one for one in at_once(root, lambda name: _listed(root, name), names) if one is not None]
    return sorted(found, key=lambda run: run.created_at, reverse=True)


def at_once(storage: Storage, do: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """The result of each item; on object storage, where one waits for answers, of several at the same time."""
    if not on_object_storage(storage) or len(items) < 2:
        return [do(item) for item in items]
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(do, items))


def _listed(root: Storage, name: str) -> RunStatus | None:
    if root.size(f"{name}/{layout.RUN_RECORD}") is None:
        return None
    try:
        return run_status(root.folder(name))
    except StorageError as error:
        logger.warning("left out the run %s: %s", name, error)
        return None


def checkpoint_steps(storage: Storage) -> list[int]:
    """Steps of the committed checkpoints, the newest first, which need not be the largest after `resume --from`."""
    from torchrelay.contract import manifest

    return [one.step for one in manifest.committed(storage)]


def _attempt_status(storage: Storage, number: int) -> AttemptStatus:
    record = records.read(storage, AttemptRecord, layout.attempt_file(number, "attempt"))
    record = record or AttemptRecord(number, backend="unknown", created_at=0.0, host="", workdir="")
    heartbeat = records.read(storage, Heartbeat, layout.attempt_file(number, "heartbeat"))
    alive = supervisor_alive(heartbeat) if heartbeat else None  # asked before the outcome is read, its last word
    outcome = records.read(storage, OutcomeRecord, layout.attempt_file(number, "outcome"))
    stop = records.read(storage, StopRequest, layout.attempt_file(number, "stop"))
    step, total_steps = last_step(storage, _event_files(storage, number))
    if outcome is not None:
        step = outcome.step if outcome.step is not None else step
        state = _state_after(outcome, stop)
    else:
        state = _state_without_outcome(storage, record, alive, has_events=step is not None)
    logs = tuple(records.node_logs(storage, number))
    return AttemptStatus(record, state, outcome, heartbeat, stop, step, total_steps, logs)


def _as_observed(storage: Storage, last: AttemptStatus) -> AttemptStatus:
    """The newest attempt with what its backend knows beyond storage, such as that it waits in a queue."""
    if last.outcome is not None and last.outcome.outcome is Outcome.COMPLETED:
        return last
    observed = observe(storage, last.record.backend, last.record.number)
    if last.outcome is None and not (observed and observed.live):
        last = _attempt_status(storage, last.record.number)
        if last.outcome is not None:  # it ended while the backend was asked, which did not know that yet
            return _as_observed(storage, last)
    if observed is None:
        return last
    return dataclasses.replace(last, state=observed.state or last.state, observed=observed)


_STATES = {
    Outcome.COMPLETED: RunState.COMPLETED,
    Outcome.PREEMPTED: RunState.PREEMPTED,
    Outcome.FAILED: RunState.FAILED,
    Outcome.SUPERSEDED: RunState.FAILED,
}


def _state_after(outcome: OutcomeRecord, stop: StopRequest | None) -> RunState:
    if outcome.outcome is Outcome.PREEMPTED and stop is not None:
        return RunState.STOPPED
    return _STATES[outcome.outcome]


def _state_without_outcome(
    storage: Storage, record: AttemptRecord, alive: bool | None, *, has_events: bool
) -> RunState:
    """`alive`: whether its supervisor is; None before the first heartbeat."""
    if alive is None:
        waiting = bool(record.backend_id) or time.time() - record.created_at < STARTING_S
        return RunState.PENDING if waiting else RunState.FAILED
    if not alive:
        return RunState.FAILED
    if has_events or not _uses_trainer(storage, record.number):
        return RunState.RUNNING
    return RunState.PENDING


def supervisor_alive(heartbeat: Heartbeat) -> bool:
    """Whether the supervisor that wrote a heartbeat still runs: exactly on its own machine, by age elsewhere."""
    if heartbeat.host == socket.gethostname() and heartbeat.boot_id == processes.boot_id():
        return processes.alive(heartbeat.pid, heartbeat.process_started)
    return time.time() - heartbeat.at < SILENT_INTERVALS * heartbeat.interval_s


def _uses_trainer(storage: Storage, attempt: int) -> bool:
    """Whether the attempt is the built-in trainer's, which always writes events; a script need not."""
    spec = records.read(storage, SpecRecord, layout.attempt_file(attempt, "spec"))
    return spec is not None and spec.spec.get("train") is not None


def last_step(storage: Storage, paths: list[str]) -> tuple[int | None, int | None]:
    """Step and total steps of the last event that names a step, in the last of these event files that has one."""
    for path in reversed(paths):
        step = total = None
        for event in events.decode(_tail(storage, path)):
            step = event["step"] if isinstance(event.get("step"), int) else step
            total = event["total_steps"] if isinstance(event.get("total_steps"), int) else total
        if isinstance(step, int):
            return step, total if isinstance(total, int) else None
    return None, None


def _event_files(storage: Storage, attempt: int) -> list[str]:
    names = [name for name in storage.list(layout.EVENTS) if name.startswith(f"a{attempt:04d}-")]
    return [f"{layout.EVENTS}/{name}" for name in names]


def _tail(storage: Storage, path: str) -> bytes:
    """The last lines of an object, whole."""
    try:
        with storage.open(path) as file:
            size = file.seek(0, os.SEEK_END)
            start = max(0, size - EVENTS_TAIL_BYTES)
            file.seek(start)
            data = file.read(size - start)
    except FileNotFoundError:
        return b""
    return data if start == 0 else data.partition(b"\n")[2]


def _backend_id(last: AttemptStatus | None) -> str:
    if last is None:
        return ""
    return last.record.backend_id or (str(last.heartbeat.pid) if last.heartbeat else "")


def _exit_code(last: AttemptStatus | None) -> int | None:
    if last is None or last.outcome:
        return last.exit_code if last else None
    return int(ExitCode.KILLED) if last.state is RunState.FAILED else None


def _error(last: AttemptStatus | None, run_id: str, steps: list[int]) -> str | None:
    if last is None or last.state is not RunState.FAILED:
        return None
    if last.observed and last.observed.error:
        first = last.failure.error if last.failure and last.failure.error not in last.observed.error else ""
        return f"{first}\n{last.observed.error}" if first else last.observed.error
    if last.failure:
        return last.failure.error
    if last.outcome and last.outcome.outcome is Outcome.SUPERSEDED:
        return "a newer attempt took the run over"
    if last.outcome:
        return f"ended with exit code {last.outcome.exit_code}"
    where = f"goes on from step {steps[0]}" if steps else "starts again from the beginning: no checkpoint was saved"
    how = "ended without a word (killed?)" if last.heartbeat else "never started"
    return f"the supervisor {how}; `torchrelay resume {run_id}` {where}"
