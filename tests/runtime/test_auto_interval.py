"""`checkpoint.every: auto` in real runs with real saves: the interval follows from the costs that the events tell."""

import itertools
import math
import statistics
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchrelay import pace
from torchrelay.attempt import Unsupervised
from torchrelay.contract import events
from torchrelay.contract.storage import LocalStorage
from torchrelay.run import Run

SAVES = 4
STEP_S = 0.005


class Trained:
    """What a run left: when the body of each step began (seconds), and the events of its saves by the clock."""

    def __init__(self, folder: Path) -> None:
        self.began: list[float] = []
        with Run.attach(name="job", storage=str(folder)) as run:
            model = nn.Linear(1500, 1500)
            optimizer = torch.optim.AdamW(model.parameters())
            run.track(model=model, optimizer=optimizer)
            deadline = time.monotonic() + 90.0
            for _ in run.steps():
                self.began.append(time.monotonic())
                if len(self.began) == 1:  # gives the optimizer its state: 27 MB in all
                    model(torch.ones(1, 1500)).sum().backward()
                    optimizer.step()
                time.sleep(STEP_S)
                if len(self.saves(folder)) >= SAVES or time.monotonic() > deadline:
                    run.finish()
                run.storage.flush()

    @staticmethod
    def saves(folder: Path) -> list[dict[str, Any]]:
        found = events.read_all(LocalStorage(folder / "job"))
        return [event for event in found if event["event"] == "checkpoint"]


def trained(folder: Path, monkeypatch: pytest.MonkeyPatch, **policy: Any) -> Trained:
    """A run that saves by this policy, the first time soon."""
    checkpoint = {"every": "auto", **policy}
    monkeypatch.setattr(Unsupervised, "spec", lambda _: {"name": "job", "checkpoint": checkpoint})
    monkeypatch.setattr(pace, "_FIRST_S", 0.1)
    monkeypatch.setattr(pace, "_SHORTEST_S", 0.01)
    return Trained(folder)


def lasting(saves: list[dict[str, Any]], key: str) -> list[float]:
    """What counts after the last of these saves."""
    return [save[key] for save in saves[-5:]]


def test_the_interval_keeps_what_saves_cost_under_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, monkeypatch, max_overhead=0.1)
    saves = run.saves(tmp_path)
    assert len(saves) >= SAVES
    for count, save in enumerate(saves, 1):
        assert save["cost_s"] >= save["stall_s"] - save["waited_s"] > 0
        cost_s = statistics.fmean(lasting(saves[:count], "cost_s"))
        twice_s = 2 * max(lasting(saves[:count], "seconds"))
        assert save["interval_s"] == pytest.approx(max(cost_s / 0.1, twice_s))
        assert cost_s <= 0.1 * save["interval_s"] * 1.0001
    for save, later in itertools.pairwise(saves[:SAVES]):  # and the interval is kept
        assert run.began[later["step"]] - run.began[max(0, save["step"] - 1)] >= save["interval_s"]


def test_with_a_rate_of_failures_it_is_youngs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(tmp_path, monkeypatch, mean_time_between_failures="10s")
    saves = run.saves(tmp_path)
    assert len(saves) >= SAVES
    for count, save in enumerate(saves, 1):
        wanted_s = math.sqrt(2 * statistics.fmean(lasting(saves[:count], "cost_s")) * 10)
        assert save["interval_s"] == pytest.approx(max(wanted_s, 2 * max(lasting(saves[:count], "seconds"))))
