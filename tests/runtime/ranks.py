"""Start real ranks of a small training program, talk to them with signals, and collect how they end."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from torchrelay.contract import environment, layout, records, reports
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import AttemptRecord, OutcomeRecord, RunRecord, SpecRecord
from torchrelay.contract.storage import Storage, open_storage

PROGRAM = Path(__file__).with_name("programs") / "small_training.py"
LIMIT_S = 180.0


@dataclass
class Ended:
    """How one rank ended. A killed one has a negative code."""

    code: int
    out: str
    err: str


@dataclass
class Gang:
    """Ranks of one start."""

    processes: list[subprocess.Popen[str]]
    folder: Path
    signalled: list[int] = field(default_factory=list)

    def wait_for(self, step: int, rank: int = 0) -> None:
        """Wait until a rank has done so many steps."""
        deadline = time.monotonic() + LIMIT_S
        while self.step(rank) < step:
            assert time.monotonic() < deadline, f"rank {rank} hung at step {self.step(rank)}: {self.end()}"
            assert self.processes[rank].poll() is None, f"rank {rank} ended before step {step}: {self.end()}"
            time.sleep(0.01)

    def step(self, rank: int) -> int:
        try:
            return int(self.folder.joinpath(f"step-{rank}").read_text() or 0)
        except FileNotFoundError:
            return 0

    def signal(self, rank: int, number: signal.Signals) -> None:
        self.processes[rank].send_signal(number)

    def end(self, limit_s: float = LIMIT_S) -> list[Ended]:
        """Wait for all ranks; those that do not end in time are killed, which shows in their code."""
        deadline = time.monotonic() + limit_s
        ended = []
        for process in self.processes:
            try:
                out, err = process.communicate(timeout=max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                out, err = process.communicate()
            ended.append(Ended(process.returncode, out, err))
        return ended


@dataclass
class Supervised:
    """A run in storage as a launcher leaves it, with one attempt."""

    url: str
    attempt: int = 1
    restart: int = 0
    reports_folder: Path = Path()

    @property
    def storage(self) -> Storage:
        return open_storage(self.url)

    def environment(self) -> dict[str, str]:
        self.reports_folder.mkdir(parents=True, exist_ok=True)
        return {
            environment.RUN: self.url,
            environment.ATTEMPT: str(self.attempt),
            environment.RESTART: str(self.restart),
            environment.NODE: "0",
            environment.REPORTS: str(self.reports_folder),
        }

    def again(self, attempt: int, restart: int = 0) -> "Supervised":
        """A later start of the same run."""
        later = Supervised(self.url, attempt, restart, self.reports_folder.with_name(f"reports-{attempt}-{restart}"))
        if restart == 0:
            later.claim()
        return later

    def claim(self, spec: dict[str, object] | None = None) -> None:
        values = spec or records.read(self.storage, SpecRecord, layout.attempt_file(1, "spec")).spec
        record = AttemptRecord(self.attempt, "local", time.time(), "here", "/")
        self.storage.create(layout.attempt_file(self.attempt, "attempt"), records.dump(record))
        self.storage.create(layout.attempt_file(self.attempt, "spec"), records.dump(SpecRecord(values)))

    def ends(self) -> dict[int, reports.RankReport]:
        return {report.rank: report for report in reports.reports(self.reports_folder)}

    def outcome(self) -> Outcome | None:
        record = records.read(self.storage, OutcomeRecord, layout.attempt_file(self.attempt, "outcome"))
        return record.outcome if record else None

    @property
    def writer(self) -> Writer:
        return Writer(self.attempt, self.restart)


def new_run(folder: Path, every: str = "1000 steps", url: str | None = None, **more: object) -> Supervised:
    """A run whose spec says when to save; by default its home is in the folder too."""
    run = Supervised(url or str(folder / "run"), reports_folder=folder / "reports-1-0")
    run.storage.create(layout.RUN_RECORD, records.dump(RunRecord("run", "small", time.time(), "0")))
    run.claim({"name": "small", "checkpoint": {"every": every, **more}, "resources": {"gpus_per_node": 0}})
    return run


def start(folder: Path, *arguments: str, world_size: int = 2, env: dict[str, str] | None = None) -> Gang:
    """Start the ranks of `programs/small_training.py` in a folder, as torchrun would."""
    folder.mkdir(parents=True, exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("TORCHRELAY_")}
    shared = {
        **inherited,
        "OMP_NUM_THREADS": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        **(env or {}),
    }
    command = [sys.executable, "-W", "error", str(PROGRAM), "--progress", str(folder), *arguments]
    processes = [
        subprocess.Popen(
            command,
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=folder,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(world_size)
    ]
    return Gang(processes, folder)


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])
