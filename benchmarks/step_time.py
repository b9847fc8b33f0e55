"""Time per step of the built-in trainer against a DDP loop written by hand, same model, data and batch, two ranks.

Once in blocks in turn within the same ranks, which shows small differences, and once as programs of their own, which
shows what the trainer's supervisors and log readers cost.
"""

import json
import tempfile
from pathlib import Path

from timing import interleaved, ratio, spread
from tools import JOBS, PROGRAMS, TORCHRUN, Row, log_of, output, printed, run_job

WARM_UP_STEPS, MEASURED_STEPS = 100, 1000  # the job makes as many
AIM = "at most 1.02"


def rows(trials: int) -> list[Row]:
    """Two rows."""
    with tempfile.TemporaryDirectory() as folder:
        return [_in_turn(trials, Path(folder)), _apart(trials, Path(folder))]


def _in_turn(trials: int, folder: Path) -> Row:
    trainer: list[float] = []
    by_hand: list[float] = []
    for _ in range(trials):
        run = run_job(JOBS / "step-time.yaml", folder, "train.data.train.target=in_turn:Synthetic")
        for line in log_of(run).splitlines():
            words = line.split()
            if len(words) > 2 and words[-3] == "pair":
                trainer.append(float(words[-2]))
                by_hand.append(float(words[-1]))
    return _row(f"time per step, two ranks, {len(trainer)} pairs of blocks of 50 steps in turn", trainer, by_hand)


def _apart(trials: int, folder: Path) -> Row:
    def by_hand() -> float:
        text = output([*TORCHRUN, str(PROGRAMS / "ddp_loop.py"), str(MEASURED_STEPS)])
        return printed(text, "seconds_per_step")

    def trainer() -> float:
        return _seconds_per_step(run_job(JOBS / "step-time.yaml", folder))

    figures = interleaved(trials, {"trainer": trainer, "by hand": by_hand})
    return _row(f"the same as programs of their own, {trials} pairs", figures["trainer"], figures["by hand"])


def _row(what: str, trainer: list[float], by_hand: list[float]) -> Row:
    return Row(
        what,
        f"built-in trainer {spread(trainer, 'ms', 1000)}",
        f"hand-written DDP loop {spread(by_hand, 'ms', 1000)}",
        f"{ratio(trainer, by_hand):.3f}",
        AIM,
    )


def _seconds_per_step(run: Path) -> float:
    """From the times of the first logged step past the warm-up and of the last one."""
    events = [json.loads(line) for file in (run / "events").iterdir() for line in file.read_text().splitlines()]
    times = {event["step"]: event["t"] for event in events if event["event"] == "step"}
    last = max(times)
    return float(times[last] - times[WARM_UP_STEPS]) / (last - WARM_UP_STEPS)
