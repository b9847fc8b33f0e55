"""The command line with a URL as the home of its runs: what the tests see of a run, they see through storage."""

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

import fsspec
import pytest

from torchrelay.contract import events
from torchrelay.contract.storage import Storage, open_storage

PROGRAMS = Path(__file__).parent.parent / "e2e" / "programs"
LIMIT_S = 240.0


def wait_until(what: str, condition: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """The first true value of `condition`. Fails the test when it does not come in time."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.2)
    pytest.fail(f"waited {limit_s:.0f} s in vain until {what}")


class Relay:
    """`torchrelay` in a fresh folder with the test programs, every process that it starts marked in its environment."""

    def __init__(self, parent: Path, url: str) -> None:
        self.folder = parent / "jobs"
        shutil.copytree(PROGRAMS, self.folder, ignore=shutil.ignore_patterns("__pycache__"))
        self.url = url
        self.variables = {"TORCHRELAY_TEST": uuid.uuid4().hex, "TORCHRELAY_STORAGE": url, "COLUMNS": "120"}

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a command and go on."""
        argv = [sys.executable, "-m", "torchrelay_launch", *words]
        return subprocess.Popen(
            argv,
            cwd=self.folder,
            env=os.environ | self.variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def __call__(self, *words: str, code: int = 0) -> str:
        """Run a command to its end and return what it printed. Fails the test for another exit code."""
        return self.finish(self.start(*words), code)

    def finish(self, job: "subprocess.Popen[str]", code: int = 0) -> str:
        """Wait for a started command and return what it printed."""
        try:
            output, _ = job.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            job.kill()
            pytest.fail(f"{job.args} hung; it printed:\n{job.communicate()[0]}")
        assert job.returncode == code, f"{job.args} ended with {job.returncode}, not {code}; it printed:\n{output}"
        return output

    def json(self, *words: str) -> Any:
        """What a reading command prints with --json."""
        return json.loads(self(*words, "--json"))

    def run(self) -> Storage:
        """The only run."""
        root = open_storage(self.url)
        (name,) = wait_until("there is a run", lambda: root.list(""))
        return root.folder(name)

    def wait_for_step(self, step: int) -> None:
        """Wait until the run's events name this step."""
        run = self.run()
        wait_until(f"step {step}", lambda: any(int(str(e.get("step") or 0)) >= step for e in events.read_all(run)))

    def events(self, kind: str) -> list[dict[str, Any]]:
        """The run's events of one kind, as far as they are in storage."""
        return [event for event in events.read_all(self.run()) if event["event"] == kind]

    def digest(self) -> dict[str, Any]:
        """Step, weights and state of the run's newest checkpoint."""
        digest = self.json("checkpoints", "digest", self.run().url)
        return {key: digest[key] for key in ("step", "weights", "state")}

    def objects(self) -> dict[str, bytes]:
        """Every object below the storage, with what it holds, segments of logs among them."""
        bucket = fsspec.filesystem(self.url.partition("://")[0], skip_instance_cache=True, use_listings_cache=False)
        return {name: bucket.cat_file(name) for name in bucket.find(self.url)}

    def processes(self) -> dict[int, dict[str, str]]:
        """Environment of every living process that came from here, and its command line as `argv`."""
        found = {}
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                pairs = (process / "environ").read_bytes().decode(errors="replace").split("\0")
                variables = dict(pair.partition("=")[::2] for pair in pairs)
                argv = (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
                if argv and variables.get("TORCHRELAY_TEST") == self.variables["TORCHRELAY_TEST"]:
                    found[int(process.name)] = variables | {"argv": argv}
        return found

    def rank(self, rank: int) -> int:
        """Process id of a rank of the trainer."""

        def find() -> list[int]:
            found = self.processes().items()
            return [pid for pid, one in found if "torchrelay.train" in one["argv"] and one.get("RANK") == str(rank)]

        return min(wait_until(f"there is rank {rank}", find))

    def kill_what_is_left(self) -> None:
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
