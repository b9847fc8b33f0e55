"""Runs of the trainer to try. The modules beside the tests, `ranks` among them, are importable from there."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parent))

from trainer_trial import SAMPLES, Trial, plain_spec

from torchrelay.contract import environment
from torchrelay.contract.storage import LocalStorage


@pytest.fixture
def trainer_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Makes trials: `trainer_trial("a", epochs=2)`."""
    monkeypatch.syspath_prepend(SAMPLES)
    monkeypatch.setenv("PYTHONPATH", str(SAMPLES))
    monkeypatch.delenv(environment.REPORTS, raising=False)

    def make(name: str, **changes: Any) -> Trial:
        return Trial(LocalStorage(tmp_path / name), monkeypatch, plain_spec(**changes))

    yield make
    torch.use_deterministic_algorithms(False)
