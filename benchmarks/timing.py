"""Time whole commands, several in turn, so that a machine whose speed drifts treats them alike."""

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence


def interleaved(trials: int, subjects: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run every subject once to warm up, then all of them in turn, `trials` times.

    A subject returns its own figure in seconds. Returns each subject's figures in the order they were taken.
    """
    figures: dict[str, list[float]] = {name: [] for name in subjects}
    for subject in subjects.values():
        subject()
    for _ in range(trials):
        for name, subject in subjects.items():
            figures[name].append(subject())
    return figures


def command_seconds(argv: Sequence[str], cwd: str | None = None) -> Callable[[], float]:
    """A subject: how long a command takes from start to end. Raises: CalledProcessError if it fails."""

    def run() -> float:
        start = time.perf_counter()
        subprocess.run(argv, cwd=cwd, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start

    return run


def spread(values: Sequence[float], unit: str = "s", scale: float = 1.0) -> str:
    """Median and range, as `0.052 (0.050 to 0.061) s`."""
    low, middle, high = min(values) * scale, statistics.median(values) * scale, max(values) * scale
    return f"{middle:.3g} ({low:.3g} to {high:.3g}) {unit}"


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios pair by pair, which cancels a drift that both saw."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
