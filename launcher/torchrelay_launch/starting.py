"""Starting an attempt of a plan: claim its number in storage, then hand it to a backend."""

import contextlib
import dataclasses
import time
from dataclasses import dataclass

from torchrelay.contract import layout, records
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.records import AttemptRecord, Failure, OutcomeRecord
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.base import Handle, RunRef, Submission
from torchrelay_launch.planning import Plan
from torchrelay_launch.runs.claims import claim, create_run, new_attempt


@dataclass(frozen=True)
class Started:
    """An attempt that was started."""

    storage: Storage
    attempt: AttemptRecord
    handle: Handle


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
