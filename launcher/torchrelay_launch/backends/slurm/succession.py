"""Handing a run on: to a new job that takes its place in the queue, or to this job, requeued."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from torchrelay.contract import layout, records
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.exit_codes import ExitCode, Outcome
from torchrelay.contract.records import Failure, StopRequest
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.slurm import client, journal, policy
from torchrelay_launch.backends.slurm.attempts import Start, Task

T = TypeVar("T")

# A job that is preempted with PreemptMode=CANCEL before its script runs cannot submit the next one, so after a
# preemption the next job lets whoever preempted this one take the nodes first. Suspected of one run that never went on.
AFTER_PREEMPTION = "--begin=now+5"
PATIENCE_S = 600.0  # for a Slurm that is away: longer than a restart or a failover of slurmctld takes
SHORT_S = 5.0  # for a question whose answer only helps
SCRIPT = "TORCHRELAY_SCRIPT"  # path of the batch script, set by the environment that it sources


@dataclass(frozen=True)
class Succession:
    """From an attempt that has ended to `number`, which this job has claimed."""

    storage: Storage
    start: Start
    task: Task
    number: int
    until: float = field(default_factory=lambda: time.monotonic() + PATIENCE_S)  # how long all of it may take

    def hand_on(self, exclude: list[str], *, preempted: bool) -> str:
        """Find the job that goes on with the run. Returns its id. Raises: TorchrelayError if Slurm takes none."""
        if self._mode() == "requeue" and not exclude:
            return self.start.job_id
        return self._submit(exclude, [AFTER_PREEMPTION] if preempted else []) or self.start.job_id

    def let_go(self, next_job: str) -> None:
        """The run is `next_job`'s from here on. Raises: TorchrelayError."""
        stop = self._stop()
        if stop is not None:
            if next_job != self.start.job_id:
                self._patiently(lambda: client.cancel([next_job]))
            self.storage.replace(layout.attempt_file(self.number, "stop"), records.dump(stop))
            journal.conclude(self.storage, self.number, Outcome.PREEMPTED, None, int(ExitCode.PREEMPTED))
        elif next_job == self.start.job_id:
            self._requeue()
            return
        if self._requeued():
            # or it would come back, to find that the run is another job's
            self._patiently(lambda: client.cancel([self.start.job_id]))

    def _patiently(self, ask: Callable[[], T]) -> T:
        return client.patiently(ask, self.until)

    def _stop(self) -> StopRequest | None:
        """A stop that came after we had looked, asked of this attempt or of the one that is being handed on."""
        found = (
            records.read(self.storage, StopRequest, layout.attempt_file(number, "stop"))
            for number in (self.task.number, self.number)
        )
        return next((one for one in found if one is not None), None)

    def _mode(self) -> str:
        mode = self.task.job.slurm.requeue
        return policy.quicker(journal.history(self.storage), _requeue_hold_s()) if mode == "auto" else mode

    def _requeued(self) -> bool:
        """Whether Slurm itself is requeueing this job already."""
        job = self._patiently(lambda: client.show("job", self.start.job_id))
        return int(job.get("Restarts", 0)) > self.start.restart_count

    def _submit(self, exclude: list[str], begin: list[str]) -> str | None:
        """Submit the same script again: a fresh job starts in seconds where a requeued one is held for longer."""
        for nodes in [exclude, []] if exclude else [[]]:
            options = begin + ([f"--exclude={','.join(nodes)}"] if nodes else [])
            submit = partial(client.submit, os.environ.get(SCRIPT, ""), str(self.number), options=options)
            try:
                job_id = self._patiently(submit)
            except TorchrelayError as error:
                print(f"torchrelay: the next attempt is not accepted: {error}", flush=True)  # noqa: T201 - job's output
                continue
            journal.set_backend_id(self.storage, self.number, job_id)
            return job_id
        return None

    def _requeue(self) -> None:
        try:
            if self._requeued():
                return
            self._patiently(lambda: client.call("scontrol", "requeue", self.start.job_id))
        except TorchrelayError as error:
            if self.task.job.slurm.requeue == "auto" and self._submit([], []):
                return
            failure = Failure(f"Slurm does not take the next attempt: {error}", int(error.exit_code))
            journal.conclude(self.storage, self.number, Outcome.FAILED, failure, failure.exit_code)
            raise


def _requeue_hold_s() -> float:
    """As Slurm is configured; as it is by default where slurmctld does not answer at once."""
    try:
        settings = client.config(SHORT_S)
    except TorchrelayError:
        settings = {}
    return client.requeue_hold_s(settings)
