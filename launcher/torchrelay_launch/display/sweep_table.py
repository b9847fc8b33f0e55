"""The runs of a sweep as a table: `ls --sweep`."""

from collections import Counter
from typing import cast

from torchrelay.contract.settings import Json
from torchrelay_launch.display import quantities
from torchrelay_launch.display.style import paint, paint_state
from torchrelay_launch.display.table import table
from torchrelay_launch.results import Result, Results
from torchrelay_launch.spec.point_names import short_names, shown

_STATES = ("completed", "running", "pending", "not started", "stopped", "preempted", "failed")
_MOST_SHOWN = 24  # characters of a swept value


def results_text(results: Results, now: float) -> str:
    """A heading, the table, and what went wrong where something did."""
    sweep, names = results.sweep, short_names(results.sweep.fields)
    metrics = results.metric_names
    best = [f"BEST {results.ranked_by}", "AT"] if results.ranked_by else []
    header = ["RUN", "STATE", "STEP", *names.values(), *metrics, *best]
    rows = [_row(row, results, metrics) for row in results.rows]
    numbers = range(2, len(header))
    age = quantities.age(sweep.record.created_at, now)
    heading = f"{paint(sweep.sweep_id, 'bold')}  {_counted(results)}, {age} old"
    failed = [_failure(row) for row in results.rows if row.point.run and row.point.run.error]
    ranked = f"; best first, by {results.ranked_by}" if results.ranked_by else ""
    told = ["", *failed] if failed else []
    return "\n".join([heading + ranked, "", table(header, rows, right=numbers), *told])


def results_json(results: Results) -> dict[str, Json]:
    """The same for programs."""
    record = results.sweep.record
    found = {
        "sweep_id": record.sweep_id,
        "url": results.sweep.storage.url,
        "name": record.name,
        "created_at": record.created_at,
        "backend": record.backend,
        "fields": results.sweep.fields,
        "ranked_by": results.ranked_by or None,
        "runs": [_row_json(row) for row in results.rows],
    }
    return cast("dict[str, Json]", found)


def _row(row: Result, results: Results, metrics: list[str]) -> list[str]:
    run = row.point.run
    values = [_value(row.point.values[field]) if field in row.point.values else "-" for field in results.sweep.fields]
    found = [quantities.number(row.metrics[name]) if name in row.metrics else "-" for name in metrics]
    best = [quantities.number(row.best.value), str(row.best.step)] if row.best else ["-", "-"]
    step = quantities.steps(run.step, run.total_steps) if run else "-"
    state = paint_state(row.point.state)
    return [row.point.run_id, state, step, *values, *found, *(best if results.ranked_by else [])]


def _value(value: Json) -> str:
    text = shown(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[: _MOST_SHOWN - 1]}…"


def _counted(results: Results) -> str:
    """`6 runs: 4 completed, 2 not started`."""
    counts = Counter(row.point.state for row in results.rows)
    count = len(results.rows)
    return f"{count} run{'s' * (count > 1)}: {', '.join(f'{counts[one]} {one}' for one in _STATES if counts[one])}"


def _failure(row: Result) -> str:
    run = row.point.run
    first = (run.error or "").strip().split("\n")[0] if run else ""
    return f"{row.point.run_id}  {paint('failed', 'red')}: {first}"


def _row_json(row: Result) -> dict[str, Json]:
    point = row.point
    status: dict[str, Json] = point.run.json() if point.run else {"run_id": point.run_id, "url": point.url}
    best = row.best and {"metric": row.best.metric, "value": row.best.value, "step": row.best.step}
    more = {"point": point.number, "values": point.values, "state": point.state, "metrics": row.metrics, "best": best}
    return status | cast("dict[str, Json]", more)
