"""The batch script's process is killed at every point of a run that goes from job to job, and the run still completes.

Storage is real; Slurm is a queue of starts here, and training a counter. A point lies before and after each write to
storage and each request to Slurm. A killed job is requeued by Slurm, as after the loss of its first node, or it has
ended, and whoever resumes the run gets it.
"""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from torchrelay.contract import layout, records
from torchrelay.contract.errors import SupersededError
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.records import OutcomeRecord
from torchrelay.contract.storage import LocalStorage, Storage
from torchrelay_launch.backends.slurm import client, journal, watching
from torchrelay_launch.backends.slurm.attempts import Start, Task
from torchrelay_launch.backends.slurm.job import BatchJob
from torchrelay_launch.runs.claims import claim_attempt, create_run
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec, Slurm

TRAININGS = 3  # attempts that a run takes that is left alone
NODES = ["n1", "n2"]


class Killed(BaseException):
    """What a kill is here: nothing of torchrelay's runs after it."""


class Points:
    """All points that a run passes; at one of them it is killed."""

    def __init__(self, kill_at: int | None) -> None:
        self.passed: list[str] = []
        self._kill_at = kill_at

    def around(self, what: str, do: Callable[..., Any]) -> Callable[..., Any]:
        def done(*given: Any, **options: Any) -> Any:
            self.point(f"before {what} {' '.join(map(str, given[:1]))}")
            result = do(*given, **options)
            self.point(f"after {what} {' '.join(map(str, given[:1]))}")
            return result

        return done

    def point(self, name: str) -> None:
        self.passed.append(name)
        if len(self.passed) - 1 == self._kill_at:
            raise Killed(name)


class Cluster:
    """A queue of starts. `requeued_first`: whether Slurm starts a requeued job before one that was submitted since."""

    def __init__(self, storage: Storage, points: Points, *, requeued_first: bool) -> None:
        self.queue: list[tuple[str, int, int]] = []  # job, restart, the attempt it was submitted for
        self.runs = ""  # the job that does
        self.trained: list[int] = []
        self._submitted: dict[str, int] = {}
        self._restarts: dict[str, int] = {}
        self.starts_by_hand = 0
        self._storage, self._points, self._requeued_first = storage, points, requeued_first

    def submit(self, _script: str, number: str, options: list[str]) -> str:
        job_id = str(len(self._submitted) + 1)
        self._submitted[job_id], self._restarts[job_id] = int(number), 0
        self.queue.append((job_id, 0, int(number)))
        return job_id

    def requeue(self, job_id: str) -> None:
        self._restarts[job_id] += 1
        start = (job_id, self._restarts[job_id], self._submitted[job_id])
        self.queue.insert(0 if self._requeued_first else len(self.queue), start)

    def call(self, *argv: str) -> str:
        assert argv[:2] == ("scontrol", "requeue"), argv
        self.requeue(argv[2])
        return ""

    def cancel(self, job_ids: list[str]) -> None:
        self.queue = [start for start in self.queue if start[0] not in job_ids]

    def show(self, kind: str, name: str) -> dict[str, str]:
        if kind == "node":
            return {"State": "IDLE", "NodeAddr": "127.0.0.1"}
        state = "RUNNING" if name == self.runs else "PENDING" if name in {job for job, _, _ in self.queue} else "FAILED"
        return {"JobState": state, "Restarts": str(self._restarts[name])}

    def train(self, task: Task) -> int:
        """What srun runs: it is preempted, until the last."""
        self.trained.append(task.number)
        self._points.point("in training")
        last = len(self.trained) >= TRAININGS
        record = OutcomeRecord(Outcome.COMPLETED if last else Outcome.PREEMPTED, 0 if last else 75, 1.0)
        self._storage.create(layout.attempt_file(task.number, "outcome"), records.dump(record))
        return record.exit_code


@pytest.fixture(autouse=True)
def own_signals() -> Iterator[None]:
    """A batch job sets its own."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGCONT)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Killing:
    """Runs, each killed once. `then`: what becomes of the killed job."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, mode: Literal["chain", "requeue"], then: str) -> None:
        self._folder, self._patch, self._then = folder, patch, then
        self._job = JobSpec(name="digits", script="train.py", slurm=Slurm(requeue=mode))
        patch.chdir(folder)
        patch.setattr(watching, "DECIDES_S", 0.0)
        patch.setattr(client, "accounted", lambda _job_id: [])

    def run(self, kill_at: int | None) -> tuple[Cluster, Points]:
        """From the first start until nothing is left in the queue, and the run is not to be resumed."""
        run = create_run(str(self._folder / f"runs-{kill_at}"), self._job)
        points = Points(kill_at)
        storage = LocalStorage(Path(run.url))
        cluster = Cluster(storage, points, requeued_first=self._then == "requeued first")
        for name in ("create", "replace", "delete"):
            setattr(storage, name, points.around(name, getattr(storage, name)))
        for name in ("submit", "call", "cancel"):
            self._patch.setattr(client, name, points.around(name, getattr(cluster, name)))
        self._patch.setattr(client, "show", cluster.show)
        self._patch.setattr(journal, "newest_step", lambda _storage: 10 * len(cluster.trained))
        self._patch.setattr(BatchJob, "_supervise", cluster.train)
        while (status := run_status(run)).state is not RunState.COMPLETED:
            assert not status.live, status
            cluster.starts_by_hand += 1
            record = claim_attempt(run, self._job, {}, "slurm", "/w", status.attempts)
            journal.set_backend_id(run, record.number, cluster.submit("", str(record.number), []))
            while cluster.queue:
                self._start(storage, cluster)
        return cluster, points

    def _start(self, storage: Storage, cluster: Cluster) -> None:
        cluster.runs, restart, submitted = cluster.queue.pop(0)
        try:
            BatchJob(storage, Start(cluster.runs, restart, NODES), []).run(submitted)
        except SupersededError:
            pass
        except Killed:
            if self._then != "ended":
                cluster.requeue(cluster.runs)
        cluster.runs = ""


@pytest.mark.parametrize("then", ["requeued first", "requeued last", "ended"])
@pytest.mark.parametrize("mode", ["chain", "requeue"])
def test_a_kill_at_any_point_leaves_a_run_that_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Literal["chain", "requeue"], then: str
) -> None:
    killing = Killing(tmp_path, monkeypatch, mode, then)
    left_alone, points = killing.run(None)
    assert left_alone.trained == [1, 2, 3]
    assert len(points.passed) > 20
    for index, name in enumerate(points.passed):
        cluster, _ = killing.run(index)
        assert cluster.starts_by_hand <= (2 if then == "ended" else 1), f"killed {name}: the run did not go on"
        assert len(set(cluster.trained)) == len(cluster.trained), f"killed {name}: an attempt was trained twice"
