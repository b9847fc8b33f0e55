"""The Slurm backend: a job becomes one batch script, and sbatch gets exactly what `render` shows."""

import os
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.exit_codes import ExitCode, Outcome, RunState
from torchrelay.contract.records import StopRequest
from torchrelay.contract.storage import Storage
from torchrelay.contract.storage_options import to_environment
from torchrelay_launch import code_snapshot
from torchrelay_launch.backends.base import Command, LastWords, RunRef, Submission, Together
from torchrelay_launch.backends.first_start import first_torchrun
from torchrelay_launch.backends.slurm import array, client, journal, partitions, script, shell_environment, watching
from torchrelay_launch.runs.locate import open_for
from torchrelay_launch.spec.models import JobSpec, Kubernetes

LOOK_S = 1.0
ASK_S = 5.0  # how often slurmctld is asked, which has others to answer too


class SlurmBackend:
    """Runs jobs on a cluster with Slurm."""

    name = "slurm"

    def render(self, job: JobSpec, run: RunRef) -> Submission:
        """What would be submitted, and the torchrun of each node. Raises: ConfigError."""
        folder = job_folder(run)
        path = script.script_file(folder, run.attempt)
        return Submission(
            backend=self.name,
            job=job,
            run=run,
            submits=(Command("submit", ("sbatch", "--parsable", path, str(run.attempt))),),
            starts=tuple(_torchrun(job, run, node) for node in range(job.resources.nodes.minimum)),
            files={path: script.render(job, run, folder)},
            warnings=tuple(_not_honoured(job)),
        )

    def submit(self, submission: Submission, *, tethered: bool) -> "SlurmHandle":  # noqa: ARG002 - no tether
        """Copy the code, write script and environment, and hand the script to sbatch. Raises: TorchrelayError."""
        self.check(submission.job)
        note = prepare(submission)
        path, argument = submission.submits[0].argv[-2:]
        job_id = client.submit(path, argument)
        storage = open_for(submission.job, submission.run.url)
        journal.set_backend_id(storage, submission.run.attempt, job_id)
        return SlurmHandle(storage, job_id, (note,))

    def check(self, job: JobSpec) -> None:
        """What can be known before anything is written. Raises: ConfigError, SchedulerError."""
        shell_environment.check_secrets(job.secrets)
        partitions.check(job)

    def together(self, submissions: Sequence[Submission], sweep: RunRef, at_once: int | None) -> Together | None:
        """The array job of a sweep; None where its runs ask Slurm for different things, or want no array."""
        return array.together(submissions, sweep, at_once, job_folder)

    def submit_together(self, submissions: Sequence[Submission], together: Together) -> tuple[str, ...]:
        """Submit the array, each of whose tasks is a run. Returns notes. Raises: TorchrelayError."""
        notes = dict.fromkeys(prepare(one) for one in submissions)
        ((path, text),) = together.files.items()
        write_script(path, text)
        job_id = client.submit(path)
        for number, one in enumerate(submissions, 1):
            journal.set_backend_id(open_for(one.job, one.run.url), one.run.attempt, f"{job_id}_{number}")
        return (*notes, f"array job {job_id}, a task for each of {len(submissions)} runs")

    def rehearse(self, submission: Submission) -> list[str]:
        """Ask Slurm whether it would take the script. Returns where it would run. Raises: TorchrelayError."""
        shell_environment.check_secrets(submission.job.secrets)
        partitions.check(submission.job)
        (text,) = submission.files.values()
        return [f"would be created: job {submission.job.name}, {client.rehearse(text)}"]

    def status(self, storage: Storage, attempt: int) -> RunState | None:
        """What Slurm says of the attempt's job; None if it knows nothing of it."""
        observed = watching.observe(storage, attempt)
        return observed.state if observed else None

    def logs(self, storage: Storage, attempt: int) -> list[str]:
        """The nodes' logs, which the supervisors write into the run's storage."""
        return records.node_logs(storage, attempt)

    def last_words(self, storage: Storage, attempt: int, known: set[str]) -> list[LastWords]:  # noqa: ARG002
        """None: all that nodes print is in their logs."""
        return []

    def stop(self, storage: Storage) -> None:
        """Ask for a clean stop; an attempt that still waits in the queue is taken out of it."""
        from torchrelay_launch.runs.stop import request_stop

        request_stop(storage, "stop")
        take_from_queue(storage)

    def cancel(self, storage: Storage) -> None:
        """End it now, and whatever follows it in the queue."""
        from torchrelay_launch.runs.stop import request_stop

        request_stop(storage, "cancel")
        client.cancel(watching.live_jobs(storage))
        take_from_queue(storage)


class SlurmHandle:
    """A run on Slurm, followed from its first job to its last."""

    def __init__(self, storage: Storage, job_id: str, notes: tuple[str, ...] = ()) -> None:
        self.notes = notes
        self._storage, self.backend_id = storage, job_id
        self.attempt = records.attempt_numbers(storage)[-1]  # the newest, which whoever follows shows
        self._looked = self._asked = 0.0
        self._code: int | None = None

    def poll(self) -> int | None:
        """The run's exit code once no further attempt follows."""
        now = time.monotonic()
        if self._code is None and now - self._looked > LOOK_S:
            self._looked = now
            self._code = self._look(now)
        return self._code

    def stop(self) -> None:
        with suppress(ConfigError):  # it has ended
            SlurmBackend().stop(self._storage)

    def kill(self) -> None:
        with suppress(ConfigError):
            SlurmBackend().cancel(self._storage)

    def detach(self) -> None:
        """A batch job needs no launcher."""

    def _look(self, now: float) -> int | None:
        newest = self.attempt = records.attempt_numbers(self._storage)[-1]
        outcome = journal.outcome_of(self._storage, newest)
        if outcome is not None:
            end = journal.read_end(self._storage, newest)
            if journal.read_begin(self._storage, newest) is None or (end is not None and not end.next_job):
                return outcome.exit_code
        if now - self._asked < ASK_S:
            return None
        self._asked = now
        observed = watching.observe(self._storage, newest)
        if observed is None or observed.live or observed.unreachable:
            return None
        return outcome.exit_code if outcome else int(ExitCode.KILLED)


def take_from_queue(storage: Storage) -> None:
    """Cancel the newest attempt's job if it has not begun, and note that it was stopped. Raises: SchedulerError."""
    from torchrelay_launch.runs.claims import user_at_host

    number = records.attempt_numbers(storage)[-1]
    if journal.read_begin(storage, number) is not None or journal.outcome_of(storage, number) is not None:
        return
    client.cancel(watching.live_jobs(storage))
    if journal.read_begin(storage, number) is None:
        path = layout.attempt_file(number, "stop")
        if storage.size(path) is None:
            storage.replace(path, records.dump(StopRequest("stop", time.time(), user_at_host())))
        journal.conclude(storage, number, Outcome.PREEMPTED, None, int(ExitCode.PREEMPTED))


def job_folder(run: RunRef) -> str:
    """Where script, environment and output of a run's jobs lie: in the run, which all nodes share.

    Raises: ConfigError for a storage that is no folder.
    """
    if "://" in run.url:
        return str(Path.home() / ".torchrelay" / "slurm" / run.run_id)
    return f"{run.url}/slurm"


def prepare(submission: Submission) -> str:
    """Write what the attempt's job reads when it begins: script, code, environment. Returns a note about the code."""
    job, run = submission.job, submission.run
    ((path, text),) = submission.files.items()
    write_script(path, text)
    note = _copy_code(job, run)
    write_environment(job, run, path)
    return note


def _copy_code(job: JobSpec, run: RunRef) -> str:
    """Make the folder that the job runs in, and note it with the attempt before the job can begin."""
    folder = script.code_folder(job, run)
    if folder == run.workdir:
        return "the code is not copied: code is live"
    if run.sweep:
        note = code_snapshot.share(Path(run.workdir), Path(run.sweep) / "code", Path(folder))
    else:
        note = str(code_snapshot.take(Path(run.workdir), Path(folder)))
    journal.set_workdir(open_for(job, run.url), run.attempt, folder, run.workdir)
    return note


def write_environment(job: JobSpec, run: RunRef, path: str, more: Mapping[str, str] | None = None) -> None:
    """Leave this shell's environment, and `more`, for the script at `path`, readable by its owner alone.

    Raises: StorageError.
    """
    added = to_environment(job.storage_options) | dict(more or {})
    variables = {os.fsencode(name): os.fsencode(value) for name, value in added.items()}
    data = shell_environment.as_shell({**os.environb, **variables}, path)
    shell_environment.write(script.environment_file(job_folder(run), run.attempt), data)


def write_script(path: str, text: str) -> None:
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(text)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _torchrun(job: JobSpec, run: RunRef, node: int) -> Command:
    python = script.node_python(job, sys.executable)
    return first_torchrun(job, run, node, "FIRST_NODE", python, to_environment(job.storage_options))


def _not_honoured(job: JobSpec) -> list[str]:
    return ["kubernetes: has no effect on Slurm"] if job.kubernetes != Kubernetes() else []
