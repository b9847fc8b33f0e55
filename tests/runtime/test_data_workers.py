"""Workers of a DataLoader that are told to stop: they go on, from their first moment, and end with their rank."""

import os
import signal
from typing import Any

import pytest
import torch
from torch.utils.data._utils import signal_handling

import torchrelay
from torchrelay import signals
from torchrelay.data.loader import StepSampler, make_loader
from torchrelay.data.plan import Plan

pytestmark = pytest.mark.timeout(120)


class Pids:
    """Samples that send stop signals to the process that loads them, and are its pid."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> int:
        for number in signals.STOP_SIGNALS:
            os.kill(os.getpid(), number)
        return os.getpid()


def loaded_elsewhere(loader: Any) -> bool:
    """Whether the loader brings all of `Pids`, from its workers."""
    pids = [pid for batch in loader for pid in batch.tolist()]
    return len(pids) == len(Pids()) and os.getpid() not in pids


def stop_as_torch_is_ready() -> None:
    """What torch calls first in a worker, and a SIGTERM just after it."""
    SET_HANDLERS()
    os.kill(os.getpid(), signal.SIGTERM)


SET_HANDLERS = signal_handling._set_worker_signal_handlers


def test_workers_outlive_stop_signals() -> None:
    assert loaded_elsewhere(make_loader(Pids(), StepSampler(Plan(8, 2), 0, 0, 4), 0, 1, torch.device("cpu")))


def test_workers_outlive_a_stop_in_the_moment_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", stop_as_torch_is_ready)
    assert loaded_elsewhere(torchrelay.DataLoader(Pids(), 4, num_workers=2))


def test_the_window_is_there_in_torchs_own_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would show nothing."""
    monkeypatch.setattr(signal_handling, "_set_worker_signal_handlers", stop_as_torch_is_ready)
    with pytest.raises(RuntimeError, match="exited unexpectedly"):
        loaded_elsewhere(torch.utils.data.DataLoader(Pids(), 4, num_workers=1, worker_init_fn=torchrelay.worker_init))


def test_a_worker_init_fn_of_the_users_is_called_too(tmp_path: Any) -> None:
    loader = torchrelay.DataLoader(Pids(), 4, num_workers=2, worker_init_fn=lambda n: (tmp_path / str(n)).touch())
    assert loaded_elsewhere(loader)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]


def test_a_signal_that_is_held_comes_later() -> None:
    noted = signals.StopSignals(impatient=False)
    noted.install()
    try:
        with signals.held():
            signal.raise_signal(signal.SIGTERM)  # to this thread: another one, of the tests' own, would take os.kill's
            assert noted.received == 0
        assert noted.received == signal.SIGTERM
    finally:
        noted.restore()
