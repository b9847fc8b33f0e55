"""Events of a run of 100 steps at its twentieth."""

from torchrelay.contract.events import Event

STEPS: list[Event] = [
    {"event": "started", "t": 100.0, "step": 0, "total_steps": 100, "world_size": 2},
    {"event": "step", "t": 101.0, "step": 10, "total_steps": 100, "metrics": {"loss": 0.5, "samples_per_s": 640.0}},
    {"event": "step", "t": 102.0, "step": 20, "total_steps": 100, "metrics": {"loss": 0.25, "samples_per_s": 640.0}},
    {"event": "evaluation", "t": 102.1, "step": 20, "metrics": {"val/loss": 0.3, "val/accuracy": 0.9}},
]
