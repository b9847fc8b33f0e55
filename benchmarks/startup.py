"""From the command to the first optimizer step of the same script: torchrelay against bare torchrun."""

import contextlib
import subprocess
import tempfile
import time
from pathlib import Path

from timing import interleaved, ratio, spread
from tools import JOBS, PROGRAMS, TORCHRUN, Row, output, run_job


def rows(trials: int) -> list[Row]:
    """One row."""
    with tempfile.TemporaryDirectory() as folder:
        marker = Path(folder) / "first-step"

        def bare() -> float:
            marker.unlink(missing_ok=True)
            start = time.time()
            with contextlib.suppress(subprocess.CalledProcessError):  # now and then gloo aborts a rank that is done
                output([*TORCHRUN, str(PROGRAMS / "first_step.py"), str(marker)])
            return float(marker.read_text()) - start

        def relayed() -> float:
            start = time.time()
            run_job(JOBS / "first-step.yaml", Path(folder) / "runs", f"args=[{marker}]")
            return float(marker.read_text()) - start

        figures = interleaved(trials, {"relayed": relayed, "bare": bare})
    return [
        Row(
            "start to first optimizer step, two gloo ranks, same script",
            spread(figures["relayed"]),
            f"bare torchrun {spread(figures['bare'])}",
            f"{ratio(figures['relayed'], figures['bare']):.3f}",
            "at most 1.05",
        )
    ]
