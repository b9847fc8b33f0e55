"""How far a run is, from its events."""

import pytest
from some_events import STEPS

from torchrelay.contract.events import Event
from torchrelay_launch.progress import Progress


def test_progress_knows_pace_and_time_left() -> None:
    progress = Progress().take_all(STEPS)
    assert (progress.step, progress.total_steps, progress.done) == (20, 100, 0.2)
    assert progress.seconds_per_step == pytest.approx(0.1)
    assert progress.seconds_left == pytest.approx(8.0)


def test_what_a_restart_does_again_replaces_what_was_done_before() -> None:
    again: list[Event] = [
        {"event": "evaluation", "step": 30, "metrics": {"val/loss": 0.1}},
        {"event": "started", "t": 200.0, "step": 20, "total_steps": 100},
    ]
    progress = Progress().take_all([*STEPS, *again])
    best = progress.best("val/loss", "min")
    assert best is not None
    assert (best.value, best.step) == (0.3, 20)
    assert progress.seconds_left is None


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"event": "step", "step": "7", "metrics": None},
        {"event": "step", "step": True},
        {"event": "evaluation", "step": 3, "metrics": {"val/loss": "nan"}},
        {"event": "started", "t": "now", "total_steps": None},
        {"event": ["unknown"]},
    ],
)
def test_odd_events_do_no_harm(event: Event) -> None:
    progress = Progress().take_all([*STEPS, event])
    assert progress.total_steps == 100
