"""What the benchmarks share: where programs are, a row of the table, and starting runs."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "benchmarks" / "programs"
JOBS = ROOT / "benchmarks" / "jobs"
PYTHON = sys.executable
TORCHRELAY = str(Path(PYTHON).with_name("torchrelay"))
TORCHRUN = (PYTHON, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
# torchx asks for an older urllib3 than object storage needs, so it lives in an environment of its own.
TORCHX = str(ROOT / ".venv-torchx" / "bin" / "torchx")

# Both sides get one thread per rank, and compiled modules as an installed package has them.
ENVIRONMENT = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"} | {
    "OMP_NUM_THREADS": "1"
}


@dataclass(frozen=True)
class Row:
    """One line of docs/benchmarks.md."""

    what: str
    ours: str
    theirs: str
    ratio: str
    aim: str


def output(argv: Sequence[str], cwd: Path = PROGRAMS, environment: Mapping[str, str] | None = None) -> str:
    """What a command prints. Raises: CalledProcessError, with its errors shown, if it fails."""
    env = ENVIRONMENT | dict(environment or {})
    done = subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-4000:] + done.stderr[-4000:])
        done.check_returncode()
    return done.stdout


def run_job(spec: Path, storage: Path, *overrides: str) -> Path:
    """Run a spec to its end below `storage`, and return the run's folder."""
    sets = [word for override in overrides for word in ("--set", override)]
    before = set(storage.iterdir()) if storage.exists() else set()
    output([TORCHRELAY, "run", str(spec), "--storage", str(storage), *sets])
    (run,) = set(storage.iterdir()) - before
    return run


def printed(text: str, name: str) -> float:
    """The figure that a program printed as `name value`, perhaps behind a log prefix."""
    for line in text.splitlines():
        words = line.split()
        if len(words) >= 2 and words[-2] == name:
            return float(words[-1])
    raise ValueError(f"no line {name!r} in the output:\n{text[-2000:]}")


def log_of(run: Path) -> str:
    """Everything that node 0 printed in a run's first attempt."""
    return (run / "logs" / "a0001" / "node-00.log").read_text()
