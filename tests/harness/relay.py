"""The command line as a user types it, in a folder of its own, and the processes that it leaves."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = Path(__file__).parent.parent / "e2e" / "programs"
LIMIT_S = 240.0


def wait_until(what: str, condition: Callable[[], Any], limit_s: float = LIMIT_S, every_s: float = 0.02) -> Any:
    """The first true value of `condition`. Fails the test when it does not come in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(every_s)
    pytest.fail(f"waited {limit_s:.0f} s in vain until {what}")


def with_programs(folder: Path) -> Path:
    """A new folder with the test programs in it."""
    shutil.copytree(PROGRAMS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


class CommandLine:
    """`torchrelay` in a folder, with runs below `url`; every process that it starts is marked in its environment."""

    limit_s = LIMIT_S
    wait_until = staticmethod(wait_until)

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self._mark = uuid.uuid4().hex
        mine = {"TORCHRELAY_TEST": self._mark, "TORCHRELAY_STORAGE": url, "COLUMNS": "120"}
        self._environment = os.environ | mine

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command and go on."""
        argv = [sys.executable, "-m", "torchrelay_launch", *words]
        return subprocess.Popen(
            argv, cwd=self.folder, env=self._environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command to its end and return what it printed. Fails the test for another exit code."""
        return self.finish(self.start(*words), code)

    def finish(self, job: "subprocess.Popen[str]", code: int = 0) -> str:
        """Wait for a started command and return what it printed."""
        try:
            output, _ = job.communicate(timeout=self.limit_s)
        except subprocess.TimeoutExpired:
            job.kill()
            pytest.fail(f"{job.args} hung; it printed:\n{job.communicate()[0]}")
        assert job.returncode == code, f"{job.args} ended with {job.returncode}, not {code}; it printed:\n{output}"
        return output

    def json(self, *words: str) -> Any:
        """What a reading command prints with --json."""
        return json.loads(self(*words, "--json"))

    def digest_of(self, run: str) -> dict[str, Any]:
        """Step, weights and state of a run's newest checkpoint."""
        digest = self.json("checkpoints", "digest", run)
        return {key: digest[key] for key in ("step", "weights", "state")}

    def processes(self) -> dict[int, str]:
        """Process id and command line of every living process that came from here."""
        mark = f"TORCHRELAY_TEST={self._mark}".encode()
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                    if command:  # a zombie has none
                        found[int(process.name)] = command
        return found

    def process(self, *words: str, rank: int | None = None) -> int:
        """The one process with all these words in its command line, and this rank."""

        def find() -> list[int]:
            mark = None if rank is None else f"RANK={rank}".encode()
            return [
                pid
                for pid, command in self.processes().items()
                if all(word in command for word in words)
                and (mark is None or mark in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
            ]

        return min(wait_until(f"there is a process {words}", find, self.limit_s))

    def wait_until_nothing_is_left(self) -> None:
        """Fail if any process that came from here outlives the run."""
        wait_until("no process is left", lambda: not self.processes(), 60.0)

    def kill_what_is_left(self) -> None:
        """After a test that failed."""
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


class Relay(CommandLine):
    """The same with runs in the folder itself, where the tests look at their files."""

    def __init__(self, folder: Path) -> None:
        self.storage = folder / "runs"
        super().__init__(folder, str(self.storage))

    def run(self) -> Path:
        """The folder of the only run."""
        (run,) = wait_until("there is a run", lambda: list(self.storage.glob("*")))
        return run

    def events(self, kind: str) -> list[dict[str, Any]]:
        """All events of a kind, gang by gang."""
        lines = [line for file in sorted(self.run().glob("events/*")) for line in file.read_text().split("\n")[:-1]]
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def pace(self, seconds_per_sample: float) -> None:
        """How long a sample of the paced data sets takes from now on."""
        (self.folder / "pace").write_text(str(seconds_per_sample))

    def wait_for_step(self, step: int) -> None:
        """Wait until the run has logged this step."""
        wait_until(f"step {step}", lambda: any(event["step"] >= step for event in self.events("step")))

    def digest(self) -> dict[str, Any]:
        """Step, weights and state of the only run's newest checkpoint."""
        return self.digest_of(str(self.run()))
