"""On the Slurm of the tests: submission to the first step, and how long each way of coming back takes.

Two nodes with one gloo rank each, both on this machine. slurmctld starts jobs at a beat of its own, up to a second
after they came, which is more than what is to be seen: so jobs are submitted at random moments, and in many pairs. A
requeue takes more than two minutes, so it gets two trials.
"""

import contextlib
import ctypes
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from timing import interleaved, ratio, spread
from tools import ENVIRONMENT, JOBS, PROGRAMS, PYTHON, ROOT, TORCHRELAY, TORCHX, Row

sys.path.insert(0, str(ROOT / "tests" / "slurm"))
from slurm_cluster import NODES, Cluster

CLONE_NEWNS = 0x00020000  # see unshare(2)
LIMIT_S = 240.0
STEPS_BEFORE = 30
BEAT_S = 2.0  # what slurmctld does regularly it does at least as often
STARTS_PER_TRIAL = 5
REQUEUE_TRIALS = 2
BY_HAND = """#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --cpus-per-task=1 --output=/dev/null
cd {programs}
srun --cpus-per-task=1 bash -c 'exec {python} -m torch.distributed.run --nnodes 2 --nproc-per-node 1 \\
    --node-rank $SLURM_NODEID --master-addr 127.0.0.1 --master-port 29871 first_step.py {marker}'
"""


def rows(trials: int) -> list[Row]:
    """All rows; the cluster is there for as long as that takes."""
    _name_the_nodes()
    cluster = Cluster()
    try:
        cluster.start()
        return [*_starting(cluster, trials), *_coming_back(cluster, trials)]
    finally:
        cluster.stop()


def _name_the_nodes() -> None:
    """For torchx, whose ranks meet at the first node's name: a hosts file that only processes below this one see."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        return  # without the right to, torchx is not measured
    with tempfile.NamedTemporaryFile("w", prefix="hosts-") as hosts:
        hosts.write(Path("/etc/hosts").read_text() + f"\n127.0.0.1 {' '.join(NODES)}\n")
        hosts.flush()
        Path(hosts.name).chmod(0o644)
        subprocess.run(["mount", "--make-rprivate", "/"], check=True)
        subprocess.run(["mount", "--bind", hosts.name, "/etc/hosts"], check=True)


def _starting(cluster: Cluster, trials: int) -> Iterator[Row]:
    """Submission to the first step, against a script by hand and against torchx."""
    with tempfile.TemporaryDirectory() as folder:
        marker, script = Path(folder) / "first-step", Path(folder) / "by-hand.sbatch"
        script.write_text(BY_HAND.format(programs=PROGRAMS, python=PYTHON, marker=marker))
        sets = ("resources.nodes=2", "resources.procs_per_node=1", f"args=[{marker}]")
        submits = {
            "relayed": _submitting(JOBS / "first-step.yaml", Path(folder), *sets),
            "hand": ["sbatch", str(script)],
        }
        subjects = {name: _to_first_step(cluster, argv, marker) for name, argv in submits.items()}
        pairs = STARTS_PER_TRIAL * trials
        figures = interleaved(pairs, subjects)
        yield Row(
            f"submission to first optimizer step, {pairs} pairs",
            spread(figures["relayed"]),
            f"sbatch, srun and torchrun by hand {spread(figures['hand'])}",
            f"{ratio(figures['relayed'], figures['hand']):.3f}",
            "at most 1.05",
        )
        yield _against_torchx(cluster, marker, figures["relayed"][-trials:])


def _against_torchx(cluster: Cluster, marker: Path, ours: Sequence[float]) -> Row:
    what = f"the same against torchx's Slurm scheduler, {len(ours)} trials"
    why = _why_not_torchx()
    if why:
        return Row(what, spread(ours), f"not measured: {why}", "none", "at most 1")
    shutil.copy(PROGRAMS / "first_step.py", marker.parent)  # its jobs leave their output where they are submitted
    job = ("dist.ddp", "-j", "2x1", "--script", "first_step.py", "--", str(marker))
    argv = [TORCHX, "run", "--scheduler", "slurm", "--scheduler_args", "partition=main,time=5", "--workspace", "", *job]
    trial = _to_first_step(cluster, argv, marker, marker.parent)
    theirs = [trial() for _ in range(len(ours) + 1)][1:]
    return Row(what, spread(ours), spread(theirs), f"{ratio(ours, theirs):.3f}", "at most 1")


def _why_not_torchx() -> str:
    """Why its jobs cannot run here; empty if they can."""
    if not Path(TORCHX).exists():
        return "torchx is not installed"
    try:
        socket.gethostbyname(NODES[0])
    except OSError:
        return f"its ranks meet at the first node's name, and {NODES[0]} of this cluster resolves to no address"
    return ""


def _to_first_step(cluster: Cluster, argv: Sequence[str], marker: Path, cwd: Path = PROGRAMS) -> Callable[[], float]:
    """A subject: seconds from the command to what the program notes as its first step. Raises: TimeoutError."""

    def run() -> float:
        marker.unlink(missing_ok=True)
        time.sleep(random.uniform(0.0, BEAT_S))
        start = time.time()
        try:
            _submit(cluster, argv, cwd)
            _wait(lambda: marker.exists() and marker.read_text(), LIMIT_S)
            return float(marker.read_text()) - start
        finally:
            _empty_queue(cluster)

    return run


def _coming_back(cluster: Cluster, trials: int) -> Iterator[Row]:
    """From a kill or a notice to training again, and what was lost."""
    lost: list[int] = []
    ways: dict[str, tuple[int, str, Callable[[int, str], None]]] = {
        "a rank killed: restart inside the allocation": (
            trials,
            "chain",
            lambda pid, _job: os.kill(pid, signal.SIGKILL),
        ),
        "`scontrol requeue`, going on as a new job": (trials, "chain", lambda _pid, job: _requeue(cluster, job)),
        "`scontrol requeue`, going on as the same job": (
            min(trials, REQUEUE_TRIALS),
            "requeue",
            lambda _pid, job: _requeue(cluster, job),
        ),
    }
    for what, (count, mode, stop) in ways.items():
        found = [_stopped(cluster, mode, stop) for _ in range(count)]
        notice = "requeue" in what
        lost += [steps for _, steps in found] if notice else []
        yield Row(f"{what}, {count} trials", spread([seconds for seconds, _ in found]), "-", "-", "none")
    yield Row(f"steps lost per stop with notice, {len(lost)} stops", f"{max(lost)} at most", "-", "-", "0")


def _stopped(cluster: Cluster, mode: str, stop: Callable[[int, str], None]) -> tuple[float, int]:
    """Seconds from the stop to the next step of another process, and how many steps were done again."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        counts = Path(folder) / "counts"
        counts.touch()
        sets = (f"args=[{counts}]", f"slurm.requeue={mode}")
        _submit(cluster, _submitting(JOBS / "counting-run.yaml", Path(folder), *sets))
        try:
            _wait(lambda: len(_steps(counts)) >= STEPS_BEFORE, LIMIT_S)
            victim = _steps(counts)[-1][0]
            job = cluster.output("squeue", "-h", "-o", "%A").split()[0]
            stopped = time.time()
            stop(int(victim), job)
            _wait(lambda: _steps(counts)[-1][0] != victim, LIMIT_S)
            steps = _steps(counts)
            before = max(int(step) for pid, _, step in steps if pid == victim)
            _, at, first = next(one for one in steps if one[0] != victim)
            return float(at) - stopped, before + 1 - int(first)
        finally:
            run = next((Path(folder) / "runs").iterdir())
            _submit(cluster, [TORCHRELAY, "cancel", str(run)])
            _empty_queue(cluster)


def _requeue(cluster: Cluster, job: str) -> None:
    cluster.run("scontrol", "requeue", job)


def _submitting(spec: Path, folder: Path, *sets: str) -> list[str]:
    words = [word for one in sets for word in ("--set", one)]
    return [TORCHRELAY, "submit", str(spec), "--on", "slurm", "--storage", str(folder / "runs"), *words]


def _submit(cluster: Cluster, argv: Sequence[str], cwd: Path = PROGRAMS) -> None:
    """Raises: CalledProcessError, after showing what it said."""
    names = ("SLURM_CONF", "PATH")
    environment = ENVIRONMENT | {name: cluster.environment[name] for name in names}
    environment["PATH"] = f"{Path(PYTHON).parent}:{environment['PATH']}"
    done = subprocess.run(argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=120)
    if done.returncode != 0:
        sys.stderr.write(done.stdout[-2000:] + done.stderr[-2000:])
        done.check_returncode()


def _steps(counts: Path) -> list[list[str]]:
    """`pid time step` of every whole line."""
    return [line.split() for line in counts.read_text().split("\n")[:-1]]


def _empty_queue(cluster: Cluster) -> None:
    with contextlib.suppress(TimeoutError):
        _wait(lambda: not cluster.output("squeue", "-h"), 20.0)
        return
    cluster.restore()
    _wait(lambda: not cluster.output("squeue", "-h"), 60.0)


def _wait(ready: Callable[[], object], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came within {limit_s:.0f} s")
        time.sleep(0.02)
