"""Everything about a run: `describe`."""

import dataclasses
from typing import cast

from torchrelay.contract import layout
from torchrelay.contract.settings import Json
from torchrelay_launch.display import quantities
from torchrelay_launch.display.lines import time_left, whereabouts
from torchrelay_launch.display.style import paint, paint_state
from torchrelay_launch.display.table import pairs, table
from torchrelay_launch.progress import Metrics, Progress
from torchrelay_launch.runs.status import AttemptStatus, RunStatus
from torchrelay_launch.spec.point_names import label

_HEADER = ("ATTEMPT", "STATE", "EXIT", "STEP", "RESTARTS", "STARTED", "TOOK", "WHERE")
_SHOWN_CHECKPOINTS = 12


def as_text(status: RunStatus, progress: Progress, now: float) -> str:
    """All of it for reading."""
    parts = [f"{paint(status.run_id, 'bold')}  {paint_state(status.state)}", pairs(_facts(status, progress, now))]
    if status.error:
        parts.append(failure_text(status))
    if status.history:
        parts.append(table(_HEADER, [_row(one, now) for one in status.history], right=(2, 3, 4)))
    parts.append(pairs(_files(status)))
    return "\n\n".join(parts)


def as_json(status: RunStatus, progress: Progress) -> dict[str, Json]:
    """All of it for programs: what `status --json` has, and more."""
    more: dict[str, object] = {
        "name": status.name,
        "created_at": status.created_at,
        "torchrelay": status.torchrelay,
        "world_size": progress.world_size,
        "metrics": progress.metrics,
        "evaluations": [{"step": step, **metrics} for step, metrics in sorted(progress.evaluations.items())],
        "checkpoint_steps": list(status.checkpoint_steps),
        "history": [_attempt_json(one) for one in status.history],
    }
    if status.sweep:
        more |= {"sweep": status.sweep, "point": status.point, "values": status.values}
    return status.json() | cast("dict[str, Json]", more)


def failure_text(status: RunStatus) -> str:
    """The first failure: where, what, and the traceback."""
    failure = status.failure
    lines = [f"{paint('failed', 'red')}{whereabouts(status)}: {(status.error or '').strip()}"]
    if failure is not None and failure.traceback:
        lines += [f"  {line}" for line in failure.traceback.rstrip().split("\n")]
    return "\n".join(lines)


def metrics_text(metrics: Metrics) -> str:
    """`loss 0.41  lr 0.001  memory_bytes 1.2 GiB`."""
    shown = {
        name: quantities.size(value) if name.endswith("_bytes") else quantities.number(value)
        for name, value in metrics.items()
    }
    return "  ".join(f"{name} {value}" for name, value in shown.items())


def _facts(status: RunStatus, progress: Progress, now: float) -> list[tuple[str, str]]:
    created = f"{quantities.moment(status.created_at)}, {quantities.age(status.created_at, now)} ago"
    facts = [("url", status.url), ("created", f"{created}, by torchrelay {status.torchrelay}")]
    if status.sweep:
        facts.append(("sweep", f"{status.sweep}, point {status.point}: {label(status.values)}"))
    share = f" ({status.step / status.total_steps:.0%})" if status.step and status.total_steps else ""
    left = time_left(status, progress.metrics)
    facts.append(("step", quantities.steps(status.step, status.total_steps) + share + left))
    observed = status.history[-1].observed if status.history else None
    if observed is not None and observed.says:
        facts.append((status.backend, observed.says))
    if progress.world_size:
        facts.append(("world size", str(progress.world_size)))
    if progress.metrics:
        facts.append(("training", metrics_text(progress.metrics)))
    if progress.evaluation:
        facts.append(("validation", f"{metrics_text(progress.evaluation)}  (step {max(progress.evaluations)})"))
    facts.append(("checkpoints", _checkpoints(status)))
    if progress.checkpoint_error:
        facts.append(("last save", paint(f"failed: {progress.checkpoint_error}", "red")))
    return facts


def _checkpoints(status: RunStatus) -> str:
    steps = status.checkpoint_steps
    if not steps:
        return "none"
    shown = ", ".join(str(step) for step in steps[-_SHOWN_CHECKPOINTS:])
    return f"{'..., ' if len(steps) > _SHOWN_CHECKPOINTS else ''}{shown}"


def _row(one: AttemptStatus, now: float) -> tuple[str, ...]:
    record = one.record
    where = f"{record.backend}, {record.host}" + (f", {record.nodes} nodes" if record.nodes > 1 else "")
    if record.backend_id:
        where += f", {record.backend_id}"
    return (
        str(record.number),
        paint_state(one.state),
        "-" if one.exit_code is None else str(one.exit_code),
        quantities.steps(one.step, None),
        str(one.restarts),
        quantities.moment(record.created_at),
        quantities.span(_ended(one, now) - record.created_at),
        where,
    )


def _ended(one: AttemptStatus, now: float) -> float:
    if one.outcome:
        return one.outcome.at
    if one.state in ("running", "pending") or one.heartbeat is None:
        return now
    return one.heartbeat.at


def _files(status: RunStatus) -> list[tuple[str, str]]:
    base = status.url
    files = [("spec", f"{base}/{layout.attempt_file(status.attempts, 'spec')}")] if status.attempts else []
    logs = [f"{base}/{path}" for one in status.history for path in one.logs]
    if logs:
        files.append(("logs", "\n".join(logs)))
    if status.checkpoint_steps:
        files.append(("checkpoints", f"{base}/{layout.CHECKPOINTS}"))
    if status.step is not None:
        files.append(("curves", f"{base}/{layout.TENSORBOARD}"))
    return files


def _attempt_json(one: AttemptStatus) -> dict[str, Json]:
    record: dict[str, Json] = dataclasses.asdict(one.record)
    return record | {
        "state": str(one.state),
        "exit_code": one.exit_code,
        "step": one.step,
        "restarts": one.restarts,
        "ended_at": one.outcome.at if one.outcome else None,
        "failure": dataclasses.asdict(one.failure) if one.failure else None,
        "logs": list(one.logs),
    }
