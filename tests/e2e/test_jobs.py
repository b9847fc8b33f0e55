"""The job of `make demo`, as it stands in jobs/, does what the README says of it."""

import json
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


PATIENT = """\
import os, pathlib, time
while os.environ["WAITS"] == "yes" and not pathlib.Path("go").exists():
    time.sleep(0.1)
"""
SWEEP = "name: patient\nscript: patient.py\nsweep: {grid: {env.WAITS: ['no', 'yes']}}\n"


def test_a_sweep_is_run_in_the_background_stopped_and_resumed(relay: Any) -> None:
    (relay.folder / "patient.py").write_text(PATIENT)
    (relay.folder / "patient.yaml").write_text(SWEEP)
    sweep = Path(relay("submit", "patient.yaml").split("\n")[0])
    first, second = (Path(f"{sweep}-00{number}") / "attempts" / "0001" for number in (1, 2))
    relay.wait_until("the first point is done", (first / "outcome.json").exists)
    relay.wait_until("the second runs", lambda: relay.process("patient.py"))
    assert "1 completed, 1 stopped" in relay("stop", sweep.name)
    relay.wait_until_nothing_is_left()
    (relay.folder / "go").touch()
    assert "2 runs: 2 completed" in relay("resume", sweep.name)
    assert json.loads((second.parent / "0002" / "outcome.json").read_text())["outcome"] == "completed"
    assert not (first.parent / "0002").exists()
