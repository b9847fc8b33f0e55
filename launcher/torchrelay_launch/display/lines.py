"""A run in one line: `status`, and the table of `ls`."""

from collections.abc import Sequence

from torchrelay.contract.exit_codes import RunState
from torchrelay_launch.display import quantities
from torchrelay_launch.display.style import paint, paint_state
from torchrelay_launch.display.table import table
from torchrelay_launch.progress import Metrics
from torchrelay_launch.runs.status import RunStatus
from torchrelay_launch.spec.point_names import label

_HEADER = ("RUN", "STATE", "STEP", "METRIC", "AGE", "BACKEND")


def run_table(runs: Sequence[RunStatus], metrics: Sequence[Metrics], now: float) -> str:
    """The table of `ls`; `metrics` are the newest ones of each run."""
    rows = [_row(run, values, now) for run, values in zip(runs, metrics, strict=True)]
    if not any(run.sweep for run in runs):
        return table(_HEADER, rows, right=(2, 4))
    points = [(*row, label(run.values) or "-") for row, run in zip(rows, runs, strict=True)]
    return table((*_HEADER, "POINT OF ITS SWEEP"), points, right=(2, 4))


def status_line(status: RunStatus, metrics: Metrics) -> str:
    """The line of `status`, and a line for each line of what went wrong."""
    parts = [status.run_id, paint_state(status.state)]
    if status.step is not None:
        parts.append(f"step {_step(status)}{time_left(status, metrics)}")
    if shown := telling_metric(metrics):
        parts.append(shown)
    if status.attempts:
        parts.append(f"attempt {status.attempts} on {status.backend}{_jobs(status)}")
    if status.last_checkpoint_step is not None:
        parts.append(f"checkpoint at step {status.last_checkpoint_step}")
    lines = ["  ".join(parts)]
    if status.error:
        where = whereabouts(status)
        lines.append(f"  {paint('failed', 'red')}{where}: " + status.error.strip().replace("\n", "\n  "))
    return "\n".join(lines)


def time_left(status: RunStatus, metrics: Metrics) -> str:
    """`, 12:30 left`: how long a running run takes at the speed of its last steps, without evaluations and saves."""
    if status.state is not RunState.RUNNING or not status.step or not status.total_steps or "step_s" not in metrics:
        return ""
    return f", {quantities.clock((status.total_steps - status.step) * metrics['step_s'])} left"


def _jobs(status: RunStatus) -> str:
    """The jobs of a run on a cluster, and how the newest stands: ` (jobs 9, 10; job 10 waits: Priority)`."""
    ids = dict.fromkeys(
        one.record.backend_id for one in status.history if one.record.backend in ("slurm", "kubernetes")
    )
    named = ", ".join(job_id for job_id in ids if job_id)
    if not named:
        return ""
    observed = status.history[-1].observed
    says = f"; {observed.says}" if observed and observed.says else ""
    return f" (job{'s' * (len(ids) > 1)} {named}{says})"


def whereabouts(status: RunStatus) -> str:
    """` on rank 1 of node 0 at step 57`, as far as it is known of the first failure."""
    failure = status.failure
    if failure is None:
        return ""
    step = f" at step {failure.step}" if failure.step is not None else ""
    if failure.error.startswith("rank "):  # it says so itself
        return step
    text = ""
    if failure.rank is not None:
        text += f" on rank {failure.rank}" + (f" of node {failure.node}" if failure.node is not None else "")
    elif failure.node is not None:
        text += f" on node {failure.node}"
    return text + step


def telling_metric(metrics: Metrics) -> str:
    """The one metric that says most: an accuracy, a validation loss, any validation metric, the loss."""
    names = [*(name for name in metrics if "acc" in name and "/" in name), "val/loss"]
    names += [*(name for name in metrics if name.startswith("val/")), "loss"]
    name = next((name for name in names if name in metrics), None)
    return f"{name} {quantities.number(metrics[name])}" if name else ""


def _row(run: RunStatus, metrics: Metrics, now: float) -> tuple[str, ...]:
    metric = telling_metric(metrics) or "-"
    age = quantities.age(run.created_at, now)
    return run.run_id, paint_state(run.state), _step(run), metric, age, run.backend or "-"


def _step(status: RunStatus) -> str:
    return quantities.steps(status.step, status.total_steps)
