"""The garbage collector before the first step and after it."""

import gc
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from torchrelay.train import startup


class Knot:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.me = self


@pytest.fixture
def usual() -> Iterator[tuple[int, int, int]]:
    """The thresholds, which are put back."""
    found = gc.get_threshold()
    yield found
    gc.set_threshold(*found)
    gc.unfreeze()


def test_what_was_made_before_the_first_step_stays_and_its_garbage_does_not(usual: tuple[int, int, int]) -> None:
    startup.begin()
    assert gc.get_threshold()[0] > 100 * usual[0]
    garbage = weakref.ref(Knot())
    startup.end()
    assert garbage() is None
    assert gc.get_threshold() == usual
    assert gc.get_freeze_count() > 1000


def test_a_collector_that_somebody_else_has_set_is_left_alone(usual: tuple[int, int, int]) -> None:
    startup.begin()
    gc.set_threshold(5, 6, 7)
    startup.end()
    assert gc.get_threshold() == (5, 6, 7)
    gc.set_threshold(*usual)
    startup.end()  # in a program of one's own, which calls the trainer
    assert gc.get_freeze_count() == 0


def test_the_trainer_steps_with_the_usual_collector(trainer_trial: Any) -> None:
    trial = trainer_trial("a", task="trainer_samples:Collected", epochs=1)
    command = [sys.executable, "-m", "torchrelay.train"]
    environment = {**os.environ, **trial.prepare()}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert "leaked" not in done.stderr  # as libraries say whose objects are never finalised
    made, stepping = done.stdout.split("\n")[:2]
    assert made.startswith("made: threshold 1000000, frozen 0")
    threshold, frozen = stepping.removeprefix("stepping: threshold ").split(", frozen ")
    assert int(threshold) == gc.get_threshold()[0]
    assert int(frozen) > 100_000
