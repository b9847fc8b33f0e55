"""Starting an attempt: claim its number in storage, then hand it to a backend."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path

from torchrelay.contract import layout, records
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.records import AttemptRecord, Failure, OutcomeRecord
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.base import Backend, Handle, RunRef, Submission, load_backend
from torchrelay_launch.runs import claim, create_run, new_attempt
from torchrelay_launch.spec.models import JobSpec

RUN_ID = "RUN_ID"  # stands in `render` for what is only known when the run is made


@dataclass(frozen=True)
class Plan:
    """What is to be started, and where."""

    job: JobSpec
    backend: Backend
    storage_url: str  # where runs are kept
    workdir: Path = field(default_factory=Path.cwd)  # relative paths of the job start from here
    sources: dict[str, str] = field(default_factory=dict)
    source_text: str = ""

    def rehearse(self, run_id: str = RUN_ID) -> Submission:
        """What starting it as a new run would do. Raises: ConfigError if it cannot run there."""
        url = f"{self.storage_url.rstrip('/')}/{run_id}"
        return self.backend.render(self.job, RunRef(run_id, url, 1, str(self.workdir), self.sources))

    def warnings(self) -> list[str]:
        """What the user should know before it starts. Raises: ConfigError for what cannot work on this machine."""
        found = list(self.rehearse().warnings)
        if self.backend.name == "local":
            from torchrelay_launch.preflight import check_local

            found += check_local(self.job, self.storage_url)
        return found


@dataclass(frozen=True)
class Started:
    """An attempt that was started."""

    storage: Storage
    attempt: AttemptRecord
    handle: Handle


def plan(job: JobSpec, on: str | None, storage_url: str) -> Plan:
    """A plan on the backend that `--on` names, else the spec's. Raises: ConfigError if there is none."""
    return Plan(job, load_backend(on or job.backend), storage_url)


def start_new(what: Plan, *, tethered: bool) -> Started:
    """Make a run and start its first attempt. Raises: ConfigError, StorageError."""
    storage = create_run(what.storage_url, what.job, what.source_text)
    return start_attempt(what, storage, 0, tethered=tethered)


def start_attempt(
    what: Plan, storage: Storage, expected_last: int, *, tethered: bool, resume_from: int | None = None
) -> Started:
    """Claim the attempt after `expected_last` and start it.

    Raises: ConfigError if somebody else has it, or it could not be started; StorageError.
    """
    attempt, submission = claimed(what, storage, expected_last, resume_from)
    try:
        handle = what.backend.submit(submission, tethered=tethered)
    except TorchrelayError as error:
        note_failure(storage, attempt.number, error)
        raise
    return Started(storage, dataclasses.replace(attempt, backend_id=handle.backend_id), handle)


def claimed(
    what: Plan, storage: Storage, expected_last: int, resume_from: int | None = None
) -> tuple[AttemptRecord, Submission]:
    """Claim the attempt after `expected_last`, and say what starts it. Raises: ConfigError, StorageError."""
    attempt = new_attempt(expected_last + 1, what.job, what.backend.name, str(what.workdir))
    attempt = dataclasses.replace(attempt, resume_from=resume_from)
    claim(storage, attempt, what.job, what.sources)
    run = records.read_run(storage)
    sweep = f"{what.storage_url.rstrip('/')}/{run.sweep}" if run.sweep and not expected_last else ""
    try:
        ref = RunRef(run.run_id, storage.url, attempt.number, str(what.workdir), what.sources, sweep)
        return attempt, what.backend.render(what.job, ref)
    except TorchrelayError as error:
        note_failure(storage, attempt.number, error)
        raise


def note_failure(storage: Storage, attempt: int, error: TorchrelayError) -> None:
    """An attempt that never began must not look as if it were about to."""
    failure = Failure(str(error), int(error.exit_code), retryable=error.retryable)
    outcome = OutcomeRecord(Outcome.FAILED, int(error.exit_code), time.time(), failure=failure)
    with contextlib.suppress(FileExistsError):  # a supervisor had the first word
        storage.create(layout.attempt_file(attempt, "outcome"), records.dump(outcome))
