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
