"""What the runs of a sweep came to: how each stands, its validation metrics, and which is best."""

import math
from dataclasses import dataclass

from torchrelay.contract import events
from torchrelay.contract.storage import open_storage
from torchrelay_launch.display.summary import best_of
from torchrelay_launch.progress import Best, Metrics, Progress
from torchrelay_launch.runs.status import at_once
from torchrelay_launch.runs.sweeps import PointStatus, Sweep, sweep_status
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.reader import load_resolved


@dataclass(frozen=True)
class Result:
    """One point. `metrics`: the newest of validation, or of training where there is no validation."""

    point: PointStatus
    metrics: Metrics
    best: Best | None


@dataclass(frozen=True)
class Results:
    """All points: the best first, then those without a result, in the order of the spec."""

    sweep: Sweep
    rows: list[Result]
    ranked_by: str = ""  # the metric; empty where no run has one yet

    @property
    def metric_names(self) -> list[str]:
        """Names of the metrics that any row has."""
        return list(dict.fromkeys(name for row in self.rows for name in row.metrics))


def results_of(sweep: Sweep) -> Results:
    """Read how each point stands and what it came to. Raises: StorageError."""
    job = load_resolved(sweep.spec(1).spec)
    points = sweep_status(sweep)
    rows = at_once(sweep.storage, lambda point: _result(point, job), points)
    ranked = [row for row in rows if row.best is not None]
    metric = ranked[0].best.metric if ranked and ranked[0].best else ""
    larger = _mode(job, metric) == "max"
    ranked.sort(key=lambda row: _rank(row, larger=larger))
    return Results(sweep, [*ranked, *(row for row in rows if row.best is None)], metric)


def _result(point: PointStatus, job: JobSpec) -> Result:
    if point.run is None:
        return Result(point, {}, None)
    progress = Progress().take_all(events.read_all(open_storage(point.url)))
    training = {"loss": progress.metrics["loss"]} if "loss" in progress.metrics else {}
    best = best_of(progress, job)
    ranks = best is not None and math.isfinite(best.value)  # a run that diverged has no best
    return Result(point, progress.evaluation or training, best if ranks else None)


def _mode(job: JobSpec, metric: str) -> str:
    keep = job.checkpoint.keep_best
    if keep is not None and keep.metric == metric:
        return keep.mode
    return "max" if metric == "val/accuracy" else "min"


def _rank(row: Result, *, larger: bool) -> float:
    assert row.best is not None
    return -row.best.value if larger else row.best.value
