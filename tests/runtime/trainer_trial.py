"""Runs of the trainer, in this process or under torchrun, on the data and tasks of programs/trainer_samples.py."""

import os
import random
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from torchrelay.contract import environment, events, layout, manifest, records
from torchrelay.contract.records import AttemptRecord, OutcomeRecord, RunRecord, SpecRecord
from torchrelay.contract.storage import LocalStorage
from torchrelay.run import Run
from torchrelay.train.loop import train

SAMPLES = Path(__file__).parent / "programs"  # the folder of trainer_samples


def plain_spec(**changes: Any) -> dict[str, Any]:
    """A spec in JSON, small and with everything random that there is; `changes` go into its train section."""
    train_section = {
        "task": "classification",
        "seed": 3,
        "data": {
            "train": {"target": "trainer_samples.Points", "args": {"n": 50, "noise": 0.5}},
            "val": {"target": "trainer_samples.Points", "args": {"n": 31}},
        },
        "model": {"target": "torchrelay.models.mlp", "args": {"sizes": [4, 16, 2], "dropout": 0.3}},
        "optimizer": {"target": "torch.optim.AdamW", "args": {"lr": 0.01}},
        "schedule": {"target": "torch.optim.lr_scheduler.CosineAnnealingLR", "args": {"T_max": "auto"}},
        "global_batch": 8,
        "epochs": 3,
        "log_every": 1,
        **changes,
    }
    return {"name": "test", "train": train_section, "checkpoint": {"every": "1000 steps"}}


@dataclass
class Trial:
    """A run of its own in a temporary folder, attempt by attempt."""

    storage: LocalStorage
    monkeypatch: pytest.MonkeyPatch
    spec: dict[str, Any] = field(default_factory=plain_spec)
    attempts: int = 0

    def prepare(self) -> dict[str, str]:
        """Make the next attempt. Returns the environment that names it."""
        self.attempts += 1
        number = self.attempts
        if number == 1:
            self.storage.create(layout.RUN_RECORD, records.dump(RunRecord("test", "test", 0.0, "0")))
        self.storage.create(
            layout.attempt_file(number, "attempt"), records.dump(AttemptRecord(number, "none", 0.0, "here", "."))
        )
        self.storage.create(layout.attempt_file(number, "spec"), records.dump(SpecRecord(self.spec)))
        return {environment.RUN: self.storage.url, environment.ATTEMPT: str(number)}

    def run(self) -> int:
        """Train in this process. Returns the exit code."""
        for name, value in self.prepare().items():
            self.monkeypatch.setenv(name, value)
        random.seed()  # as in a new process, where nobody has seeded them yet
        np.random.seed()
        try:
            with Run.attach() as run:
                train(run)
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    def torchrun(self, world_size: int, *, stopped: bool = False) -> None:
        """Train in several processes, to the end or until a stop."""
        command = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc-per-node={world_size}",
            "-m",
            "torchrelay.train",
        ]
        done = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, **self.prepare(), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert (done.returncode != 0) == stopped, done.stderr[-4000:]
        assert self.outcome().exit_code == (75 if stopped else 0)

    def events(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in events.read_all(self.storage) if event["event"] == kind]

    def losses(self) -> list[float]:
        return [event["metrics"]["loss"] for event in self.events("step")]

    def evaluations(self) -> list[tuple[int, dict[str, float]]]:
        return [(event["step"], event["metrics"]) for event in self.events("evaluation")]

    def digest(self) -> tuple[str, str]:
        newest = manifest.newest_committed(self.storage)
        assert newest is not None
        found = manifest.digest(self.storage, newest.folder)
        return found.weights, found.state

    def outcome(self) -> OutcomeRecord:
        found = records.read(self.storage, OutcomeRecord, layout.attempt_file(self.attempts, "outcome"))
        assert found is not None
        return found
