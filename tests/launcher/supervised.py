"""An attempt under real supervisors and a real torchrun, with scripts that import no torch. Processes have a mark."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from torchrelay.contract.storage import Storage
from torchrelay_launch import processes
from torchrelay_launch.backends.base import Handle
from torchrelay_launch.runs.status import RunStatus, run_status

# Never ends by itself, and takes care to outlive whoever ends.
STUBBORN = """
    import os, signal, subprocess, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    subprocess.Popen(["sleep", "1000"], start_new_session=True)
    print("ready", flush=True)
    time.sleep(1000)
"""

# A rank as the runtime makes them, without torch: registers, steps, stops cleanly.
RUNTIME_RANK = """
    import faulthandler, os, signal, sys, time
    from pathlib import Path
    from torchrelay.contract import reports
    stopped = []
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: stopped.append(1))
    faulthandler.register(signal.SIGUSR2)
    folder, rank = Path(os.environ["TORCHRELAY_REPORTS"]), int(os.environ["RANK"])
    touch = reports.register(folder, rank)
    print("ready", flush=True)
    steps = int(os.environ.get("STEPS", "100000")) if os.environ["TORCHRELAY_RESTART"] == "0" else 5
    for step in range(steps):
        time.sleep(0.01)
        if "HANG" not in os.environ:
            os.utime(touch)
        if stopped:
            time.sleep(0.3)
            reports.report(folder, reports.RankReport(rank, 75, time.time()))
            print("saved", flush=True)
            sys.exit(0)
    reports.report(folder, reports.RankReport(rank, 0, time.time()))
"""


class Attempt:
    """A submitted attempt, its handle, and its processes."""

    def __init__(self, storage: Storage, handle: Handle, mark: str) -> None:
        self.storage, self.handle, self.mark = storage, handle, mark

    def wait(self, limit_s: float = 90) -> int:
        until(lambda: self.handle.poll() is not None, limit_s, self.log)
        code = self.handle.poll()
        assert code is not None
        return code

    def status(self) -> RunStatus:
        return run_status(self.storage)

    def log(self) -> str:
        paths = self.status().history[-1].logs
        return "".join(self.storage.read(path).decode() for path in paths)

    def await_log(self, text: str, times: int = 1) -> None:
        until(lambda: self.log().count(text) >= times, 90, self.log)

    def pids(self, *words: str) -> list[int]:
        """Pids of this attempt's processes whose command line has all the words."""
        return [pid for pid in marked(self.mark) if all(word in command_of(pid) for word in words)]

    def await_end_of_all(self, limit_s: float = 30) -> None:
        until(lambda: not marked(self.mark), limit_s, lambda: str([command_of(pid) for pid in marked(self.mark)]))


Start = Callable[..., Attempt]


def until(happened: Callable[[], bool], limit_s: float, otherwise: Callable[[], str]) -> None:
    deadline = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > deadline:
            pytest.fail(f"did not happen within {limit_s} s:\n{otherwise()}")
        time.sleep(0.02)


def marked(mark: str) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            process = processes.look_at(int(name))
            if process and process.running and processes.environment_of(int(name)).get("MARK") == mark:
                found.append(int(name))
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    except OSError:
        return ""
