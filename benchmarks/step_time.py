"""Time per step of the built-in trainer against a DDP loop written by hand, same model, data and batch, two ranks."""

import json
import tempfile
from pathlib import Path

from timing import interleaved, ratio, spread
from tools import JOBS, PROGRAMS, TORCHRUN, Row, output, printed, run_job

WARM_UP_STEPS, MEASURED_STEPS = 100, 1000


def rows(trials: int) -> list[Row]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:

        def by_hand() -> float:
            text = output([*TORCHRUN, str(PROGRAMS / "ddp_loop.py"), str(MEASURED_STEPS)])
            return printed(text, "seconds_per_step")

        def trainer() -> float:
            total = WARM_UP_STEPS + MEASURED_STEPS
            return _seconds_per_step(run_job(JOBS / "step-time.yaml", Path(folder), f"train.steps={total}"))

        figures = interleaved(trials, {"trainer": trainer, "by hand": by_hand})
    return [
        Row(
            "time per step of the built-in trainer, two ranks",
            spread(figures["trainer"], "ms", 1000),
            f"hand-written DDP loop {spread(figures['by hand'], 'ms', 1000)}",
            f"{ratio(figures['trainer'], figures['by hand']):.3f}",
            "at most 1.02",
        )
    ]


def _seconds_per_step(run: Path) -> float:
    """From the times of the first logged step past the warm-up and of the last one."""
    events = [json.loads(line) for file in (run / "events").iterdir() for line in file.read_text().splitlines()]
    times = {event["step"]: event["t"] for event in events if event["event"] == "step"}
    last = max(times)
    return float(times[last] - times[WARM_UP_STEPS]) / (last - WARM_UP_STEPS)
