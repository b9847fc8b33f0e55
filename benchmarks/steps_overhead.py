"""What `Run.steps` adds to a loop that does nothing, two ranks, agreement on stops included."""

import tempfile
from pathlib import Path

from timing import spread
from tools import JOBS, Row, log_of, printed, run_job

STEPS = 20_000


def rows(trials: int) -> list[Row]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        job = JOBS / "empty-loop.yaml"
        figures = [
            printed(log_of(run_job(job, Path(folder), f"args=['{STEPS}']")), "seconds_per_step") for _ in range(trials)
        ]
    return [Row("`Run.steps` in an empty loop, per step", spread(figures, "µs", 1e6), "nothing", "", "at most 50 µs")]
