"""The job of `make demo`, as it stands in jobs/, does what the README says of it."""

import shutil
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

JOBS = Path(__file__).resolve().parents[2] / "jobs"


def test_the_demo_learns_the_digits_and_says_what_to_type_next(relay: Any) -> None:
    shutil.copy(JOBS / "digits.yaml", relay.folder)
    output = relay("run", "digits.yaml")
    last = relay.events("evaluation")[-1]
    assert last["metrics"]["val/accuracy"] >= 0.98
    for said in ("completed", "tensorboard --logdir", "torchrelay describe", str(relay.run())):
        assert said in output
    assert list(relay.run().glob("tensorboard/events.out.tfevents.*"))
    relay("checkpoints", "verify", relay.run().name)


def test_the_sweep_is_run_in_the_background_stopped_and_resumed(relay: Any) -> None:
    shutil.copy(JOBS / "digits-sweep.yaml", relay.folder)
    small = ["train.epochs=1", "resources.procs_per_node=1", "sweep.grid={train.optimizer.args.lr: [1.0e-4, 1.0e-2]}"]
    output = relay("submit", "digits-sweep.yaml", *(word for one in small for word in ("--set", one)))
    sweep = Path(output.split("\n")[0]).name

    def states() -> list[str]:
        return [
            row["state"] for row in sorted(relay.json("ls", "--sweep", sweep)["runs"], key=lambda row: row["point"])
        ]

    relay.wait_until("the first point is done, and the second begins", lambda: states()[0] == "completed")
    relay.wait_until("the second is started", lambda: states()[1] in ("pending", "running"))
    relay("stop", sweep)
    assert states() == ["completed", "stopped"]
    relay.wait_until_nothing_is_left()
    table = relay("resume", sweep)
    assert "best first, by val/accuracy" in table
    assert [row["values"] for row in relay.json("ls", "--sweep", sweep)["runs"]] == [
        {"train.optimizer.args.lr": 0.01},
        {"train.optimizer.args.lr": 0.0001},
    ]
    assert states() == ["completed", "completed"]
