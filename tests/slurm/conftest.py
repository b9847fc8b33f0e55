"""The Slurm cluster of the tests, one for the whole session, and the command line on it."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from relay import Relay, wait_until, with_programs

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from slurm_cluster import Cluster, ClusterError  # noqa: E402 - after the path to it


class SlurmRelay(Relay):
    """`torchrelay` in a folder, on the login node of a cluster."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        super().__init__(folder)
        self._environment |= environment
        self.point = 0

    def run(self) -> Path:
        """The folder of the only run, or of a sweep's run that is looked at."""
        if not self.point:
            return super().run()
        (run,) = wait_until("the point has a run", lambda: list(self.storage.glob(f"*-{self.point:03d}")))
        return Path(run)

    def at(self, point: int) -> "SlurmRelay":
        """Look at the run of this point of a sweep from here on."""
        self.point = point
        return self

    def sweep(self) -> Path:
        """The folder of the only sweep."""
        (record,) = self.storage.glob("*/sweep.json")
        return record.parent

    def results(self) -> dict[int, dict[str, Any]]:
        """What `ls --sweep` says of each point."""
        found = self.json("ls", "--sweep", self.sweep().name)
        return {row["point"]: row for row in found["runs"]}

    def submit(self, spec: str, *sets: str) -> None:
        """Submit a job of two nodes with one rank each, unless `sets` say otherwise."""
        words = [word for one in ("resources.nodes=2", "resources.procs_per_node=1", *sets) for word in ("--set", one)]
        self("submit", spec, "--on", "slurm", *words)

    def pretend(self, steps: int, *sets: str, every: int = 1_000_000) -> None:
        """Submit a job of two nodes whose supervisors only pretend, and count to `steps` in tenths of a second."""
        self("submit", *self._pretended(steps, every, sets))

    def start_pretending(self, verb: str, steps: int, *sets: str) -> Any:
        """Start `run` or another verb with such a job, and go on."""
        return self.start(verb, *self._pretended(steps, 1_000_000, sets))

    def refused(self, code: int, *sets: str) -> str:
        """What submitting such a job says when it ends with this exit code. Fails if it does not."""
        return str(self("submit", *self._pretended(1, 1, sets), code=code))

    def _pretended(self, steps: int, every: int, sets: tuple[str, ...]) -> list[str]:
        python = self.folder / "python"
        python.write_text(f'#!/bin/sh\nexec {sys.executable} "{HERE}/programs/pretend_node.py" "$@"\n')
        python.chmod(0o755)
        (self.folder / "nothing.py").touch()
        (self.folder / "pretend.yaml").write_text((HERE / "programs" / "pretend.yaml").read_text())
        self._environment |= {"PRETEND_STEPS": str(steps), "PRETEND_EVERY": str(every)}
        words = [word for one in (f"slurm.python={python}", *sets) for word in ("--set", one)]
        return ["pretend.yaml", "--on", "slurm", *words]

    def attempt(self) -> int:
        """Number of the newest attempt."""
        return max(int(path.name) for path in self.run().glob("attempts/*"))

    def job_id(self) -> str:
        """The newest attempt's job."""
        return str(self.record("attempt")["backend_id"])

    def record(self, name: str, attempt: int | None = None) -> dict[str, Any]:
        """A record of an attempt, by default the newest."""
        path = self.run() / "attempts" / f"{attempt or self.attempt():04d}" / f"{name}.json"
        found: dict[str, Any] = json.loads(wait_until(f"there is {path.name}", lambda: _text(path)))
        return found

    def wait_for_attempt(self, number: int) -> None:
        """Wait until this attempt trains."""
        pattern = f"events/a{number:04d}-*"
        wait_until(
            f"attempt {number} makes steps",
            lambda: any('"step"' in file.read_text() for file in self.run().glob(pattern)) or self.ended(),
            200.0,
        )
        assert self.attempt() >= number, f"it ended before attempt {number}:\n{self.story()}"

    def ended(self) -> bool:
        return self.json("status", self.run().name)["state"] not in ("pending", "running")

    def wait_for_end(self, state: str = "completed") -> dict[str, Any]:
        """Wait until the run has ended, and return its status. Fails for any other state."""
        wait_until("the run has ended", self.ended, 240.0)
        status: dict[str, Any] = self.json("status", self.run().name)
        assert status["state"] == state, f"{status}\n{self.story()}"
        return status

    def causes(self) -> list[str]:
        """What ended each attempt."""
        return [self.record("slurm-end", number)["cause"] for number in range(1, self.attempt() + 1)]

    def jobs(self) -> list[str]:
        """The job of each attempt."""
        return [self.record("attempt", number)["backend_id"] for number in range(1, self.attempt() + 1)]

    def story(self) -> str:
        """What the jobs and the supervisors said, for failures."""
        files = [*self.run().glob("slurm/job-*.out"), *sorted(self.run().glob("logs/a*/node-*.log"))]
        said = [
            f"{file.name}: {line}" for file in files for line in file.read_text().splitlines() if " step " not in line
        ]
        return "\n".join(said[-80:])

    def losses(self) -> dict[int, float]:
        """The loss of every step."""
        return {event["step"]: event["metrics"]["loss"] for event in self.events("step")}


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


@pytest.fixture(scope="session")
def slurm_cluster() -> Iterator[Cluster]:
    """A running Slurm with three nodes. Never skips: a cluster that does not start is a failure that says why."""
    cluster = Cluster()
    try:
        try:
            cluster.start()
        except ClusterError as error:
            pytest.fail(f"cannot start a Slurm cluster for the tests: {error}", pytrace=False)
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def slurm(slurm_cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, which a test may damage: daemons, nodes and jobs are put right afterwards."""
    yield slurm_cluster
    slurm_cluster.restore()


@pytest.fixture
def make_slurm_relay(slurm: Cluster, tmp_path: Path) -> Callable[[str], SlurmRelay]:
    """Makes the command line in a folder of this name, with the end-to-end tests' programs."""

    def make(name: str) -> SlurmRelay:
        folder = with_programs(tmp_path / name)
        return SlurmRelay(folder, {name: slurm.environment[name] for name in ("SLURM_CONF", "PATH")})

    return make


@pytest.fixture
def slurm_relay(make_slurm_relay: Callable[[str], SlurmRelay]) -> SlurmRelay:
    """The command line in a folder whose name is hard to quote."""
    return make_slurm_relay('it\'s a "folder", 100 % $HOME')


class FakeRelay(SlurmRelay):
    """The command line with the fake's commands on its path. `fake`: the folder of the fake's state."""

    def __init__(self, folder: Path, fake: Path) -> None:
        self.fake = fake
        commands = fake / "bin"
        commands.mkdir(parents=True)
        for name in ("sbatch", "squeue", "scontrol", "scancel", "sacct", "sinfo", "srun"):
            (commands / name).write_text(f'#!/bin/sh\nexec {sys.executable} "{HERE}/fake/slurm.py" {name} "$@"\n')
            (commands / name).chmod(0o755)
        super().__init__(folder, {"SLURM_CONF": str(fake), "PATH": f"{commands}:{os.environ['PATH']}"})

    def slurm(self, *argv: str) -> str:
        """Run one of the fake's commands."""
        return subprocess.run(
            argv, env=self._environment, check=True, capture_output=True, text=True, timeout=30
        ).stdout


@pytest.fixture
def fake_relay(tmp_path: Path) -> Iterator[FakeRelay]:
    """The command line on the fake; what is left of its jobs is ended by pid."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    relay = FakeRelay(folder, tmp_path / "fake")
    yield relay
    for pid in relay.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
