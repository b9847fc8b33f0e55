"""The machine that this is: one supervisor per node of the job, each a process in a session of its own."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from typing import IO, Literal

from torchrelay.contract import environment, layout, records
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.exit_codes import ExitCode, Outcome, RunState
from torchrelay.contract.records import Heartbeat, OutcomeRecord
from torchrelay.contract.storage import Storage, on_object_storage
from torchrelay.contract.storage_options import to_environment
from torchrelay_launch import processes
from torchrelay_launch.backends.base import HIDDEN, Command, LastWords, RunRef, Submission
from torchrelay_launch.runs import open_for, request_stop, run_status
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.supervisor.options import TOKEN_VARIABLE, NodeOptions

LOOPBACK = "127.0.0.1"
PORT_SHOWN = f"{LOOPBACK}:0"  # chosen by the kernel when it starts
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


class LocalBackend:
    """Runs jobs on this machine."""

    name = "local"

    def render(self, job: JobSpec, run: RunRef) -> Submission:
        """What would be executed; ports and scratch folders, which are chosen at the start, show as 0 and SCRATCH."""
        nodes = range(job.resources.nodes.minimum)
        return Submission(
            backend=self.name,
            job=job,
            run=run,
            submits=tuple(_supervisor(job, run, node) for node in nodes),
            starts=tuple(_torchrun(job, run, node) for node in nodes),
            warnings=tuple(_not_honoured(job)),
        )

    def submit(self, submission: Submission, *, tethered: bool) -> "LocalHandle":
        """Start the supervisors and wait until the first has shown itself. Raises: ConfigError, with the reason."""
        from torchrelay_launch.supervisor.plan import check

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

    def status(self, storage: Storage, attempt: int) -> RunState | None:
        """Whether the supervisor of node 0 runs on this machine; None if it does not, or ran elsewhere."""
        heartbeat = _local_heartbeat(storage, attempt)
        if heartbeat is None or not processes.alive(heartbeat.pid, heartbeat.process_started):
            return None
        process = processes.look_at(heartbeat.pid)
        return STATES.get(process.state) if process else None

    def logs(self, storage: Storage, attempt: int) -> list[str]:
        """The nodes' logs, which the supervisors write into the run's storage."""
        folder = f"{layout.LOGS}/a{attempt:04d}"
        return [f"{folder}/{name}" for name in storage.list(folder)]

    def last_words(self, storage: Storage, attempt: int, known: set[str]) -> list[LastWords]:  # noqa: ARG002
        """None: all that nodes print is in their logs."""
        return []

    def stop(self, storage: Storage) -> None:
        """Ask for a clean stop, which the supervisor sees within a few seconds. Raises: ConfigError if nothing runs."""
        request_stop(storage, "stop")

    def cancel(self, storage: Storage) -> None:
        """End it now, and wait for the end; a supervisor that does not answer is killed with all below it."""
        attempt = run_status(storage).attempts
        request_stop(storage, "cancel")
        heartbeat = _local_heartbeat(storage, attempt)
        patience = time.monotonic() + CANCEL_S
        while run_status(storage).live and time.monotonic() < patience:
            time.sleep(look_s(storage))
        if heartbeat is not None and processes.alive(heartbeat.pid, heartbeat.process_started):
            kill_tree(heartbeat.pid)
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

    def await_start(self, deadline: float) -> None:
        """Return once node 0's supervisor has shown itself. Raises: ConfigError if one ends before, with its reason."""
        path = layout.attempt_file(self._attempt, "heartbeat")
        while self._storage.size(path) is None:
            for process, errors in zip(self._processes, self._errors, strict=True):
                if process.poll() is not None:
                    self._explain_early_end(process.returncode, errors)
            if time.monotonic() > deadline:
                raise ConfigError(f"the supervisor did not start within {START_S:g} s")
            time.sleep(min(look_s(self._storage), 0.2))

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
                kill_tree(process.pid)
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


def look_s(storage: Storage) -> float:
    """How long to wait between two looks at the run."""
    return OBJECT_STORAGE_LOOK_S if on_object_storage(storage) else LOOK_S


def kill_tree(root: int) -> None:
    """SIGKILL a process and all that descends from it, whatever they start meanwhile."""
    while True:
        below = [process.pid for process in processes.descendants(root) if process.running]
        for pid in below:
            processes.send(pid, signal.SIGKILL)
        if not below:
            break
        time.sleep(LOOK_S)
    processes.send(root, signal.SIGKILL)


def _supervisor(job: JobSpec, run: RunRef, node: int) -> Command:
    options = NodeOptions(run.url, run.attempt, node, job.resources.nodes.minimum, PORT_SHOWN)
    argv = (sys.executable, "-m", "torchrelay_launch", "node", *options.argv())
    return Command(f"node {node}: supervisor", argv, _hidden(job) | to_environment(job.storage_options))


def _torchrun(job: JobSpec, run: RunRef, node: int) -> Command:
    from torchrelay_launch.installed import torch_version
    from torchrelay_launch.torchrun import Placement, rank_environment, run_port, torchrun_argv

    placement = Placement(
        node=node,
        nodes=job.resources.nodes.minimum,
        master_addr=LOOPBACK,
        master_port=run_port(run.run_id, 0),
        run_id=run.run_id,
        restart=0,
        log_dir="SCRATCH/logs",
        torch_version=torch_version(),
        python=sys.executable,
    )
    mine = {
        environment.RUN: run.url,
        environment.ATTEMPT: str(run.attempt),
        environment.RESTART: "0",
        environment.NODE: str(node),
        environment.REPORTS: "SCRATCH/reports",
        **to_environment(job.storage_options),
    }
    argv = tuple(torchrun_argv(job, placement))
    return Command(
        f"node {node}: torchrun, started by the supervisor", argv, rank_environment(job) | _hidden(job) | mine
    )


def _hidden(job: JobSpec) -> dict[str, str]:
    return dict.fromkeys(job.secrets, HIDDEN)


def _not_honoured(job: JobSpec) -> list[str]:
    """Keys that have no effect here; those of other backends are no mistake, a spec is for all of them."""
    return ["resources.memory: memory is not limited on this machine"] if job.resources.memory is not None else []


def _local_heartbeat(storage: Storage, attempt: int) -> Heartbeat | None:
    """The attempt's heartbeat if it comes from this machine since its last boot."""
    heartbeat = records.read(storage, Heartbeat, layout.attempt_file(attempt, "heartbeat"))
    if heartbeat is None or heartbeat.host != socket.gethostname() or heartbeat.boot_id != processes.boot_id():
        return None
    return heartbeat
