"""Which attempt the pods of a job run, claiming the next, and whether there is a next.

    attempts/N/kubernetes.json   written by the first pod when it begins attempt N: where the others find it
    kubernetes-nodes.json        how many pods the run is to have, once `torchrelay scale` has changed it
    kubernetes/JOB-N.waits       that pod N, which such a change has brought, is there, and when it last said so

Pods start and end one by one, so none of them can be told the attempt's number in advance. The first pod claims it
and says so in storage; the others wait there. So whoever can read the run's storage can join the run, and nobody else.
"""

import contextlib
import dataclasses
import json
import re
import socket
import time
from dataclasses import dataclass

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError, StorageError, SupersededError
from torchrelay.contract.exit_codes import ExitCode, Outcome
from torchrelay.contract.records import AttemptRecord, Failure, OutcomeRecord, StopRequest
from torchrelay.contract.storage import Storage
from torchrelay_launch.runs import inheriting

NODES_FILE = "kubernetes-nodes.json"
WAITS_S = 60.0  # for how long a pod's word that it waits is believed
_FOLDER, _WAITS = "kubernetes", ".waits"  # where a job's whereabouts are, too
STOPPED = 130  # 128 + SIGINT: a user stopped the run; podFailurePolicy fails the job for it, so no pod comes back
_MISSING = re.compile(r"did not come within")  # as the coordinator puts it


@dataclass(frozen=True)
class Begin:
    """The beginning of an attempt in the first pod of a job."""

    job: str  # name of the Job, JobSet or TrainJob
    pod: str
    address: str  # of the pod, by number: names of a pod that moved are cached for up to half a minute
    port: int
    nodes: int
    token: str  # that a supervisor shows to take part
    at: float


def begin_file(attempt: int) -> str:
    return layout.attempt_file(attempt, "kubernetes")


def read_begin(storage: Storage, attempt: int) -> Begin | None:
    """Raises: StorageError."""
    path = begin_file(attempt)
    try:
        values = json.loads(storage.read(path))
        known = {one.name for one in dataclasses.fields(Begin)}
        return Begin(**{key: value for key, value in values.items() if key in known})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"{storage.url}/{path} is damaged: {error}") from error


def write_begin(storage: Storage, attempt: int, begin: Begin) -> None:
    """Take an attempt. Raises: SupersededError if another pod has it; StorageError."""
    try:
        storage.create(begin_file(attempt), records.dump(begin))
    except FileExistsError:
        raise SupersededError(f"attempt {attempt} was taken by another pod") from None


def newest_attempt(storage: Storage) -> int:
    """Raises: ConfigError if the run has none, as when its manifest was rendered and applied by hand; StorageError."""
    numbers = records.attempt_numbers(storage)
    if not numbers:
        raise ConfigError(f"{storage.url} holds no run: start it with `torchrelay submit`, which also makes its folder")
    return numbers[-1]


def outcome_of(storage: Storage, attempt: int) -> OutcomeRecord | None:
    return records.read(storage, OutcomeRecord, layout.attempt_file(attempt, "outcome"))


def stopped(storage: Storage, attempt: int) -> bool:
    """Whether somebody asked this attempt to stop, so that none follows by itself."""
    return records.read(storage, StopRequest, layout.attempt_file(attempt, "stop")) is not None


def last_code(outcome: OutcomeRecord, *, asked_to_stop: bool) -> int | None:
    """The exit code with which the pods of a run end for good after this outcome; None if the run goes on in them."""
    if outcome.outcome is Outcome.COMPLETED:
        return 0
    if outcome.outcome is Outcome.SUPERSEDED:
        return int(ExitCode.SUPERSEDED)
    failure = outcome.failure
    if asked_to_stop and (failure is None or failure.exit_code != ExitCode.CONFIG):
        return STOPPED
    if outcome.outcome is Outcome.PREEMPTED or failure is None:
        return None
    if _MISSING.search(failure.error):
        return int(ExitCode.PREEMPTED)  # give back what this pod holds, and wait for all to be scheduled
    if failure.rank is None and failure.node is not None and failure.exit_code == ExitCode.FAILED:
        return None  # a pod was lost, and Kubernetes brings it back
    return failure.exit_code if failure.retryable else int(ExitCode.CONFIG)


def begin_next(storage: Storage, submitted: int, job: str) -> "int | OutcomeRecord":
    """The attempt that the first pod is to begin, claimed if need be; or the outcome after which there is none.

    Raises: SupersededError if the run belongs to another job; ConfigError if there is no run; StorageError.
    """
    newest = newest_attempt(storage)
    record, begun = record_of(storage, newest), read_begin(storage, newest)
    if (owner := _owner(record, begun)) not in (job, ""):
        raise SupersededError(f"attempt {newest} of the run belongs to {owner}; this is {job}")
    if record.backend != "kubernetes" and newest != submitted:
        raise SupersededError(f"attempt {newest} of the run belongs to the backend {record.backend}; this is {job}")
    outcome = outcome_of(storage, newest)
    if begun is None and outcome is not None:
        return _given_up(outcome, newest, asked_to_stop=stopped(storage, newest))
    if begun is None:
        inheriting.complete(storage, newest)
        return newest
    outcome = outcome or _conclude_silent(storage, newest, begun)
    if last_code(outcome, asked_to_stop=stopped(storage, newest)) in (0, STOPPED, ExitCode.SUPERSEDED, ExitCode.CONFIG):
        return outcome
    return claim_next(storage, record, job)


def _given_up(outcome: OutcomeRecord, attempt: int, *, asked_to_stop: bool) -> OutcomeRecord:
    """The outcome of an attempt that ended before it began. Raises: SupersededError unless somebody stopped it.

    A launcher that got no answer when it made the job, and could not delete it, has told its user that it failed.
    """
    if asked_to_stop:
        return outcome
    why = outcome.failure.error if outcome.failure else str(outcome.outcome)
    raise SupersededError(f"attempt {attempt} was given up before it began: {why}")


def _owner(record: AttemptRecord, begun: Begin | None) -> str:
    return begun.job if begun else record.backend_id


def claim_next(storage: Storage, old: AttemptRecord, job: str) -> int:
    """Claim the attempt that follows. Raises: SupersededError; StorageError."""
    host = socket.gethostname()
    record = AttemptRecord(old.number + 1, "kubernetes", time.time(), host, old.workdir, job, old.nodes)
    inheriting.claim(storage, record)
    return record.number


def record_of(storage: Storage, attempt: int) -> AttemptRecord:
    """Raises: StorageError if there is none."""
    record = records.read(storage, AttemptRecord, layout.attempt_file(attempt, "attempt"))
    if record is None:
        raise StorageError(f"attempt {attempt} of {storage.url} has no record")
    return record


def set_backend_id(storage: Storage, attempt: int, job: str) -> None:
    """Note which job an attempt is. Only the owner of the attempt does this."""
    record = dataclasses.replace(record_of(storage, attempt), backend_id=job)
    storage.replace(layout.attempt_file(attempt, "attempt"), records.dump(record))


def wanted_nodes(storage: Storage, submitted: int) -> int:
    """How many pods an attempt that begins now has. `submitted`: as the job was submitted. Raises: StorageError."""
    return scaled_nodes(storage) or submitted


def write_nodes(storage: Storage, nodes: int | None) -> None:
    """Say how many pods the run is to have from now on; None: as it was submitted."""
    if nodes is not None:
        storage.replace(NODES_FILE, (json.dumps({"nodes": nodes}) + "\n").encode())
    elif storage.size(NODES_FILE) is not None:
        storage.delete(NODES_FILE)


def scaled_nodes(storage: Storage) -> int | None:
    """How many pods `torchrelay scale` asked for last, if it did. Raises: StorageError."""
    try:
        return int(json.loads(storage.read(NODES_FILE))["nodes"])
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError) as error:
        raise StorageError(f"{storage.url}/{NODES_FILE} is damaged: {error}") from error


def say_waiting(storage: Storage, job: str, node: int) -> None:
    """Say that this pod could take part in a larger attempt."""
    storage.replace(_waits_file(job, node), f"{time.time():.0f}\n".encode())


def waits(storage: Storage, job: str, node: int) -> bool:
    """Whether a pod said so lately. Raises: StorageError."""
    try:
        return time.time() - float(storage.read(_waits_file(job, node))) < WAITS_S
    except (FileNotFoundError, ValueError):
        return False


def forget_waiting(storage: Storage) -> None:
    """Whoever waited before an attempt begins takes part in it, or says so again, or is gone."""
    for name in storage.list(_FOLDER):
        if name.endswith(_WAITS):
            storage.delete(f"{_FOLDER}/{name}")


def _waits_file(job: str, node: int) -> str:
    return f"{_FOLDER}/{job}-{node}{_WAITS}"


def _conclude_silent(storage: Storage, attempt: int, begun: Begin) -> OutcomeRecord:
    """Write the outcome of an attempt whose first pod ended without a word."""
    failure = Failure(f"pod {begun.pod} ended without a word (killed, or its node was lost)", ExitCode.FAILED, node=0)
    record = OutcomeRecord(Outcome.FAILED, int(ExitCode.KILLED), time.time(), failure=failure)
    with contextlib.suppress(FileExistsError):
        storage.create(layout.attempt_file(attempt, "outcome"), records.dump(record))
    return outcome_of(storage, attempt) or record
