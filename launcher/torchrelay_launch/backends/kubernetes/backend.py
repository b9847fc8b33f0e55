"""The Kubernetes backend: a job becomes standard objects, and the API gets exactly what `render` shows."""

import contextlib
import time
from pathlib import Path
from typing import Literal

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay.contract.exit_codes import ExitCode, Outcome, RunState
from torchrelay.contract.records import OutcomeRecord, StopRequest
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch.backends.base import LastWords, RunRef, Submission
from torchrelay_launch.backends.kubernetes import generations, objects
from torchrelay_launch.backends.kubernetes.refusals import ApiAwayError
from torchrelay_launch.backends.kubernetes.submission import ObjectSubmission, submission_of
from torchrelay_launch.runs.claims import user_at_host
from torchrelay_launch.runs.stop import request_stop
from torchrelay_launch.spec.models import JobSpec

LOOK_S = 1.0
ASK_S = 5.0  # how often the API is asked
FINAL = (0, generations.STOPPED, ExitCode.SUPERSEDED, ExitCode.CONFIG)


class KubernetesBackend:
    """Runs jobs on a Kubernetes cluster."""

    name = "kubernetes"

    def render(self, job: JobSpec, run: RunRef) -> ObjectSubmission:
        """The objects that would be created, and the torchrun of each node. Raises: ConfigError."""
        return submission_of(job, run)

    def submit(self, submission: Submission, *, tethered: bool) -> "KubernetesHandle":  # noqa: ARG002 - no tether there
        """Create the objects. Raises: TorchrelayError with what the API says against them."""
        from torchrelay_launch.backends.kubernetes import client, code, creation

        assert isinstance(submission, ObjectSubmission)
        run, storage = submission.run, open_storage(submission.run.url)
        api = client.connect(submission.job.kubernetes)
        snapshot = objects.place_of(submission.job, run).code
        notes = [code.store(storage, snapshot, Path(run.workdir))] if snapshot is not None else []
        generations.write_nodes(storage, None)  # an earlier submission may have been scaled
        where = creation.create(api, storage, submission)
        generations.set_backend_id(storage, run.attempt, where.name)
        return KubernetesHandle(storage, where.name, (*notes, *(f"the cluster warns: {text}" for text in api.warnings)))

    def rehearse(self, submission: ObjectSubmission) -> list[str]:
        """Ask the server whether it would take the objects. Returns what it says. Raises: ConfigError, ApiAwayError."""
        from torchrelay_launch.backends.kubernetes import client, creation

        api = client.connect(submission.job.kubernetes)
        made = [f"would be created: {line}" for line in creation.rehearse(api, submission)]
        return made + [f"the cluster warns: {text}" for text in api.warnings]

    def status(self, storage: Storage, attempt: int) -> RunState | None:
        """What Kubernetes says of the attempt; None if it adds nothing to what storage says."""
        from torchrelay_launch.backends.kubernetes import watching

        found = watching.observe(storage, attempt)
        return found.state if found else None

    def logs(self, storage: Storage, attempt: int) -> list[str]:
        """The nodes' logs, which the supervisors write into the run's storage."""
        return records.node_logs(storage, attempt)

    def last_words(self, storage: Storage, attempt: int, known: set[str]) -> list[LastWords]:
        """What pods of an attempt that crashed printed last, but for those in `known`. Raises: TorchrelayError."""
        from torchrelay_launch.backends.kubernetes import pod_logs

        return pod_logs.last_words(storage, attempt, known)

    def stop(self, storage: Storage) -> None:
        """Ask for a clean stop; a job without a pod, because it is queued or waits for another one, is deleted."""
        newest = _asked(storage, "stop")
        begun = generations.read_begin(storage, newest) is not None
        if not begun or generations.outcome_of(storage, newest) is not None or _has_no_pod(storage, newest):
            try:
                _delete(storage, newest)
            except ApiAwayError as error:
                raise ApiAwayError(
                    f"{error}; pods that begin meanwhile see the request and stop by themselves"
                ) from None
            _conclude(storage, newest)

    def cancel(self, storage: Storage) -> None:
        """End it now: delete the job, its pods first."""
        newest = _asked(storage, "cancel")
        _delete(storage, newest)
        if generations.read_begin(storage, newest) is None:
            _conclude(storage, newest)

    def scale(self, storage: Storage, nodes: int) -> None:
        """Change the number of pods: first for the pods that are there, then in the Job. Raises: TorchrelayError."""
        from torchrelay_launch.backends.kubernetes import creation, watching

        newest = records.attempt_numbers(storage)[-1]
        where = creation.read_whereabouts(storage, generations.record_of(storage, newest).backend_id)
        if where is None or where.kind != "Job":
            raise ConfigError("only a run with kubernetes.kind: job can be scaled")
        before = generations.scaled_nodes(storage)
        generations.write_nodes(storage, nodes)
        try:
            change = {"spec": {"parallelism": nodes, "completions": nodes}}
            watching.api_of(where).patch(where.kind, where.name, change)
        except TorchrelayError:
            generations.write_nodes(storage, before)
            raise


class KubernetesHandle:
    """A run on Kubernetes, followed from its first pods to its last."""

    def __init__(self, storage: Storage, job: str, notes: tuple[str, ...] = ()) -> None:
        self._storage, self.backend_id = storage, job
        self.notes = notes
        self.attempt = records.attempt_numbers(storage)[-1]  # the newest, which whoever follows shows
        self.says = ""  # why it waits there, which whoever follows says once
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
        with contextlib.suppress(ConfigError):  # it has ended
            KubernetesBackend().stop(self._storage)

    def kill(self) -> None:
        with contextlib.suppress(ConfigError):
            KubernetesBackend().cancel(self._storage)

    def detach(self) -> None:
        """A job in a cluster needs no launcher."""

    def _look(self, now: float) -> int | None:
        newest = self.attempt = records.attempt_numbers(self._storage)[-1]
        outcome = generations.outcome_of(self._storage, newest)
        if outcome is not None:
            code = generations.last_code(outcome, asked_to_stop=generations.stopped(self._storage, newest))
            if code in FINAL:
                return outcome.exit_code
        if now - self._asked < ASK_S:
            return None
        self._asked = now
        from torchrelay_launch.backends.kubernetes import watching

        found = watching.observe(self._storage, newest)
        waits = found is not None and (found.unreachable or found.state is RunState.PENDING)
        self.says = found.says if found is not None and waits else ""
        if found is None or found.state is None or found.live:
            return None
        if found.state is RunState.COMPLETED:
            return 0
        return outcome.exit_code if outcome else int(ExitCode.KILLED)


def _asked(storage: Storage, kind: Literal["stop", "cancel"]) -> int:
    """Put the request into storage, and return the attempt that it is for. Raises: ConfigError if nothing is alive."""
    newest = records.attempt_numbers(storage)[-1]
    try:
        request_stop(storage, kind)
    except ConfigError:
        if not generations.stopped(storage, newest):  # otherwise it was asked before, and has ended since
            raise
    return newest


def _delete(storage: Storage, attempt: int) -> None:
    """Delete the job of an attempt, if it has one. Raises: ConfigError, ApiAwayError."""
    from torchrelay_launch.backends.kubernetes import creation, watching

    where = creation.read_whereabouts(storage, generations.record_of(storage, attempt).backend_id)
    if where is None:
        return
    api = watching.api_of(where)
    elsewhere = watching.of_another_cluster(api, where)
    if elsewhere and api.get(where.kind, where.name) is None:
        raise ApiAwayError(elsewhere)  # not the one that was reached
    api.delete(where.kind, where.name)


def _has_no_pod(storage: Storage, attempt: int) -> bool:
    """Whether all pods have ended and none has come in their place, so that nobody would see a request to stop."""
    from torchrelay_launch.backends.kubernetes import creation, watching

    where = creation.read_whereabouts(storage, generations.record_of(storage, attempt).backend_id)
    if where is None:
        return False
    try:
        api = watching.api_of(where)
        job = api.get(where.kind, where.name)
        return job is not None and not any(map(watching.is_alive, watching.pods_of(api, job)))
    except TorchrelayError:
        return False  # pods that there may be see it


def _conclude(storage: Storage, attempt: int) -> None:
    """Write what no supervisor can: that the attempt was stopped before it began."""
    path = layout.attempt_file(attempt, "stop")
    if storage.size(path) is None:
        storage.replace(path, records.dump(StopRequest("stop", time.time(), user_at_host())))
    record = OutcomeRecord(Outcome.PREEMPTED, int(ExitCode.PREEMPTED), time.time())
    with contextlib.suppress(FileExistsError):
        storage.create(layout.attempt_file(attempt, "outcome"), records.dump(record))
