"""The supervisors on this machine: starting them, holding them, and ending them."""

import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from typing import IO, Literal

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.exit_codes import ExitCode, Outcome, RunState
from torchrelay.contract.records import Heartbeat, OutcomeRecord
from torchrelay.contract.storage import Storage, on_object_storage
from torchrelay.contract.storage_options import to_environment
from torchrelay_launch import processes
from torchrelay_launch.backends.base import Command, Submission
from torchrelay_launch.backends.local.backend import LOOPBACK, PORT_SHOWN
from torchrelay_launch.runs.locate import open_for
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.runs.stop import request_stop
from torchrelay_launch.supervisor.options import TOKEN_VARIABLE, NodeOptions
from torchrelay_launch.supervisor.work import check

START_S = 60.0
CANCEL_S = 10.0
LOOK_S = 0.02
OBJECT_STORAGE_LOOK_S = 0.5
ASK_S = 5.0  # how long a signal may wait for the record that says who asked for it

# /proc/PID/stat's letter of a supervisor -> what it means for the attempt
STATES = {
    "R": RunState.RUNNING,
    "S": RunState.RUNNING,
    "D": RunState.RUNNING,
    "T": RunState.RUNNING,
    "t": RunState.RUNNING,
    "I": RunState.RUNNING,
}


def start(submission: Submission, *, tethered: bool) -> "LocalHandle":
    """Start the supervisors and wait until the first has shown itself. Raises: ConfigError, with the reason."""
    check(submission.job, submission.run.workdir)
    missing = [name for name in submission.job.secrets if name not in os.environ]
    if missing:
        raise ConfigError(f"secrets: not set in this shell: {', '.join(missing)}")
    handle = LocalHandle(submission, tethered=tethered)
    try:
        handle.await_start(time.monotonic() + START_S)
    except BaseException:
        handle.kill()
        raise
    finally:
        handle.close_errors()
    return handle


def state_of(storage: Storage, attempt: int) -> RunState | None:
    """Whether the supervisor of node 0 runs on this machine; None if it does not, or ran elsewhere."""
    heartbeat = _heartbeat_here(storage, attempt)
    if heartbeat is None or not processes.alive(heartbeat.pid, heartbeat.process_started):
        return None
    process = processes.look_at(heartbeat.pid)
    return STATES.get(process.state) if process else None


def end(storage: Storage) -> None:
    """Cancel the newest attempt, and wait for its end; a supervisor that does not answer is killed with all below it.

    Raises: ConfigError if nothing runs; StorageError.
    """
    attempt = run_status(storage).attempts
    request_stop(storage, "cancel")
    heartbeat = _heartbeat_here(storage, attempt)
    patience = time.monotonic() + CANCEL_S
    while run_status(storage).live and time.monotonic() < patience:
        time.sleep(_look_s(storage))
    if heartbeat is not None and processes.alive(heartbeat.pid, heartbeat.process_started):
        _kill_tree(heartbeat.pid)
        outcome = OutcomeRecord(Outcome.PREEMPTED, ExitCode.KILLED, time.time(), restarts=heartbeat.restart)
        with suppress(FileExistsError):
            storage.create(layout.attempt_file(attempt, "outcome"), records.dump(outcome))


class LocalHandle:
    """The supervisors of one attempt, as their parent holds them."""

    def __init__(self, submission: Submission, *, tethered: bool) -> None:
        self._storage = open_for(submission.job, submission.run.url)
        self._environment = {**os.environ, **to_environment(submission.job.storage_options)}
        self._attempt = submission.run.attempt
        self._tethers: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        self._errors: list[IO[bytes]] = []
        token = os.urandom(16).hex()
        nodes = len(submission.submits)
        listening = socket.create_server((LOOPBACK, 0)) if nodes > 1 else None
        address = f"{LOOPBACK}:{listening.getsockname()[1]}" if listening else PORT_SHOWN
        for node, command in enumerate(submission.submits):
            listening_fd = listening.fileno() if listening and node == 0 else None
            options = NodeOptions(submission.run.url, self._attempt, node, nodes, address, listening_fd)
            self._start(command, options, token, tethered=tethered)
        if listening:
            listening.close()

    @property
    def backend_id(self) -> str:
        return str(self._processes[0].pid)

    @property
    def notes(self) -> tuple[str, ...]:
        return ()

    def await_start(self, deadline: float) -> None:
        """Return once node 0's supervisor has shown itself. Raises: ConfigError if one ends before, with its reason."""
        path = layout.attempt_file(self._attempt, "heartbeat")
        while self._storage.size(path) is None:
            for process, errors in zip(self._processes, self._errors, strict=True):
                if process.poll() is not None:
                    self._explain_early_end(process.returncode, errors)
            if time.monotonic() > deadline:
                raise ConfigError(f"the supervisor did not start within {START_S:g} s")
            time.sleep(min(_look_s(self._storage), 0.2))

    def close_errors(self) -> None:
        """From now on the supervisors say in their logs what goes wrong."""
        for errors in self._errors:
            errors.close()

    def poll(self) -> int | None:
        codes = [process.poll() for process in self._processes]
        if None in codes:
            return None
        first = codes[0] or 0
        return first if first >= 0 else 128 - first

    def stop(self) -> None:
        self._note_request("stop")
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._note_request("cancel")
        self._signal(signal.SIGQUIT)
        patience = time.monotonic() + CANCEL_S
        while self.poll() is None and time.monotonic() < patience:
            time.sleep(LOOK_S)
        for process in self._processes:
            if process.poll() is None:
                _kill_tree(process.pid)
                process.wait()

    def detach(self) -> None:
        for tether in self._tethers:
            with suppress(OSError):
                os.write(tether, b"d")
            os.close(tether)
        self._tethers.clear()
        for process in self._processes:
            if process.poll() is None:
                process.returncode = 0  # nobody's to wait for any more; Popen would warn of it otherwise

    def _note_request(self, kind: Literal["stop", "cancel"]) -> None:
        """Write down who asked; the signal comes all the same when the attempt has ended, or the storage is away."""

        def note() -> None:
            with suppress(ConfigError, StorageError):
                request_stop(self._storage, kind)

        noting = threading.Thread(target=note, name="torchrelay-stop", daemon=True)
        noting.start()
        noting.join(ASK_S)

    def _start(self, command: Command, options: NodeOptions, token: str, *, tethered: bool) -> None:
        inherited = [options.coordinator_fd] if options.coordinator_fd is not None else []
        reading = None
        if tethered:
            reading, writing = os.pipe()
            self._tethers.append(writing)
            inherited.append(reading)
        given = NodeOptions(**{**options.__dict__, "tether": reading})
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the supervisor ends early
        process = subprocess.Popen(
            [*command.argv[:4], *given.argv()],
            env={**self._environment, TOKEN_VARIABLE: token},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
            pass_fds=inherited,
        )
        if reading is not None:
            os.close(reading)
        self._processes.append(process)
        self._errors.append(errors)

    def _explain_early_end(self, code: int, errors: IO[bytes]) -> None:
        """Raises: ConfigError, unless the attempt has an outcome, which says it better."""
        outcome = records.read(self._storage, OutcomeRecord, layout.attempt_file(self._attempt, "outcome"))
        if outcome is not None and outcome.failure is None:
            return
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().removeprefix("torchrelay node: ")
        reason = outcome.failure.error if outcome and outcome.failure else said or f"it ended with exit code {code}"
        raise ConfigError(reason)

    def _signal(self, number: signal.Signals) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.send_signal(number)


def _look_s(storage: Storage) -> float:
    """How long to wait between two looks at the run."""
    return OBJECT_STORAGE_LOOK_S if on_object_storage(storage) else LOOK_S


def _kill_tree(root: int) -> None:
    """SIGKILL a process and all that descends from it, whatever they start meanwhile."""
    while True:
        below = [process.pid for process in processes.descendants(root) if process.running]
        for pid in below:
            processes.send(pid, signal.SIGKILL)
        if not below:
            break
        time.sleep(LOOK_S)
    processes.send(root, signal.SIGKILL)


def _heartbeat_here(storage: Storage, attempt: int) -> Heartbeat | None:
    """The attempt's heartbeat if it comes from this machine since its last boot."""
    heartbeat = records.read(storage, Heartbeat, layout.attempt_file(attempt, "heartbeat"))
    if heartbeat is None or heartbeat.host != socket.gethostname() or heartbeat.boot_id != processes.boot_id():
        return None
    return heartbeat
