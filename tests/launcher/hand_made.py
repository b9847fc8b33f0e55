"""Runs made by hand: the records that supervisors and ranks would have written."""

import dataclasses
from typing import Any

from torchrelay.contract import events, layout, records
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import AttemptRecord, Failure, Heartbeat, OutcomeRecord, SpecRecord
from torchrelay.contract.settings import to_json
from torchrelay.contract.storage import Storage
from torchrelay.contract.training import Data, Target, Train
from torchrelay_launch.spec.models import JobSpec

NOW = 1_795_255_200.0  # 2026-11-21 10:00:00 UTC
EPOCH_S = 3600.0

TRAIN = Train(
    task="classification",
    data=Data(train=Target("torch.utils.data.TensorDataset")),
    model=Target("torch.nn.Linear"),
    optimizer=Target("torch.optim.SGD"),
    global_batch=8,
    epochs=10,
)
JOB = JobSpec(name="digits", train=TRAIN)


@dataclasses.dataclass
class HandMade:
    """Writes a run's records as supervisors and ranks would."""

    storage: Storage

    def attempt(self, number: int, ago_s: float, *, job: JobSpec = JOB, workdir: str = "/") -> "HandMade":
        record = AttemptRecord(number, "local", NOW - ago_s, "node-a", workdir)
        self.storage.create(layout.attempt_file(number, "attempt"), records.dump(record))
        values: Any = to_json(job)
        self.storage.create(layout.attempt_file(number, "spec"), records.dump(SpecRecord(values)))
        return self

    def alive(self, number: int, ago_s: float = 2.0) -> "HandMade":
        beat = Heartbeat(NOW - ago_s, 4242, "node-a", 1.0, "boot", restart=1)
        self.storage.replace(layout.attempt_file(number, "heartbeat"), records.dump(beat))
        return self

    def ended(self, number: int, ago_s: float, outcome: OutcomeRecord) -> "HandMade":
        record = dataclasses.replace(outcome, at=NOW - ago_s)
        self.storage.create(layout.attempt_file(number, "outcome"), records.dump(record))
        return self

    def trained(self, number: int, first: int, last: int, *, restart: int = 0, total: int = 100) -> "HandMade":
        """Events of steps after `first` up to `last`, ten apart, each with an evaluation."""
        path = layout.events_file(Writer(number, restart))
        at = {"t": NOW - 60, "total_steps": total}
        written: list[dict[str, Any]] = [{"event": "started", "step": first, "world_size": 2, **at}]
        for step in range(first + 10, last + 1, 10):
            metrics = {"loss": 2 / step, "lr": 0.001, "samples_per_s": 1234.5}
            written.append({"event": "step", "step": step, "metrics": metrics, **at})
            scores = {"val/loss": 1 / step, "val/accuracy": 1 - 1 / step}
            written.append({"event": "evaluation", "step": step, "metrics": scores, **at})
        self.storage.append(path, b"".join(events.encode(event) for event in written))
        return self

    def saved(self, number: int, *steps: int) -> "HandMade":
        for step in steps:
            self.storage.create(f"{layout.checkpoint_folder(step, Writer(number))}/{layout.MANIFEST}", b"{}")
        return self

    def logged(self, number: int, node: int, *lines: str) -> "HandMade":
        self.storage.append(layout.node_log(number, node), "".join(f"{line}\n" for line in lines).encode())
        return self


COMPLETED = OutcomeRecord(Outcome.COMPLETED, 0, 0.0, step=100)
PREEMPTED = OutcomeRecord(Outcome.PREEMPTED, 75, 0.0, step=60)
TRACEBACK = (
    'Traceback (most recent call last):\n  File "train.py", line 3, in <module>\nValueError: sample 7 is rotten\n'
)
FAILURE = Failure("ValueError: sample 7 is rotten", 70, rank=1, node=0, step=34, traceback=TRACEBACK)
FAILED = OutcomeRecord(Outcome.FAILED, 70, 0.0, step=34, failure=FAILURE, restarts=3)
