"""Saving beside the training: what is copied when, one save at a time, and what a failure does."""

import logging
import math
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from alone import Alone

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract import layout, manifest
from torchrelay.contract.errors import CheckpointError, ConfigError, StorageError, SupersededError
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint, KeepBest
from torchrelay.contract.units import Interval
from torchrelay.saver import Saver, Saving, State, better

LIMIT_S = 20.0


class Gated(LocalStorage):
    """Storage that writes a rank's tensors only when it is let, and fails when it is told to."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.gate.set()
        self.reached = threading.Event()
        self.fails = False
        self.threads: set[str] = set()

    def create(self, path: str, *chunks: Any, **options: Any) -> None:
        self.threads.add(threading.current_thread().name)
        if path.endswith(".safetensors"):
            self.reached.set()
            assert self.gate.wait(LIMIT_S)
            if self.fails:
                raise StorageError("the disk is full")
        super().create(path, *chunks, **options)


def saver_on(storage: LocalStorage, **policy: Any) -> tuple[Saver, list[Any]]:
    """A saver, and what it tells."""
    rules = Checkpoint(every=Interval(10), **policy)
    saver, told = Saver(CheckpointManager(storage, Writer(1), Alone(), rules, {}), rules), []
    saver.saved, saver.failed = told.append, lambda step, error: told.append((step, str(error)))
    return saver, told


def state(step: int, weight: torch.Tensor) -> State:
    return State(step, {"model": {"w": weight}}, {}, {"loss": 1.0}, 64 * step)


def restored(root: Path) -> Any:
    found = CheckpointManager(LocalStorage(root), Writer(9), Alone(), Checkpoint(), {}).restore()
    assert found is not None
    return found


def until_idle(saver: Saver) -> None:
    deadline = time.monotonic() + LIMIT_S
    while saver.busy:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_what_training_does_after_the_copy_is_not_in_the_checkpoint(tmp_path: Path) -> None:
    storage = Gated(tmp_path)
    saver, told = saver_on(storage)
    for kind in (torch.float32, torch.bfloat16, torch.int64):
        weight = torch.arange(1000).to(kind)
        expected = weight.clone()
        step = saver.saved_step or 0
        storage.gate.clear()
        saver.begin(state(step + 10, weight))
        weight.add_(1)  # the next optimizer step
        storage.gate.set()
        saver.finish()
        assert torch.equal(restored(tmp_path).shared["model"]["w"], expected)
    assert [one.step for one in told] == [10, 20, 30]


def test_training_goes_on_while_a_save_is_written(tmp_path: Path) -> None:
    storage = Gated(tmp_path)
    saver, told = saver_on(storage)
    storage.gate.clear()
    saver.begin(state(10, torch.ones(5)))
    assert storage.reached.wait(LIMIT_S)
    saver.poll()
    assert saver.busy
    assert told == []
    assert manifest.committed(storage) == []
    storage.gate.set()
    until_idle(saver)
    saver.poll()
    (saving,) = told
    assert isinstance(saving, Saving)
    assert (saving.step, saving.folder, saving.waited_s) == (10, saver.newest, pytest.approx(0.0, abs=0.05))
    assert 0 < saving.stall_s < saving.seconds
    assert "MainThread" not in storage.threads


def test_a_save_that_is_due_waits_for_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    storage = Gated(tmp_path)
    saver, told = saver_on(storage)
    storage.gate.clear()
    saver.begin(state(10, torch.ones(5)))
    threading.Timer(0.7, storage.gate.set).start()
    with caplog.at_level(logging.WARNING):
        waited_s = saver.begin(state(20, torch.ones(5)))
    saver.finish()
    assert waited_s > 0.5
    assert [one.step for one in told] == [10, 20]
    assert told[1].waited_s == waited_s <= told[1].stall_s
    assert "saves take longer than checkpoint.every (10 steps) leaves them" in caplog.text


def test_the_buffer_is_taken_once(tmp_path: Path) -> None:
    saver, _ = saver_on(LocalStorage(tmp_path))
    weight = torch.ones(10_000)
    saver.prepare(state(0, weight))
    saver.begin(state(10, weight))
    saver.finish()
    address = saver.manager._staging._buffer.data_ptr()
    for step in (20, 30):
        saver.begin(state(step, weight))
        saver.finish()
    assert saver.manager._staging._buffer.data_ptr() == address
    assert saver.manager.buffer_bytes == weight.numel() * 4


def test_a_failure_is_told_and_the_next_save_is_the_next_try(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = Gated(tmp_path)
    saver, told = saver_on(storage)
    storage.fails = True
    saver.begin(state(10, torch.ones(5)))
    until_idle(saver)
    assert not saver.broken
    saver.poll()
    assert told == [(10, "the disk is full")]
    assert "no checkpoint at step 10, training goes on: the disk is full" in caplog.text
    assert storage.list(layout.checkpoint_folder(10, Writer(1))) == []
    assert not saver.due(11, by_clock=False)
    assert saver.due(20, by_clock=False)
    storage.fails = False
    saver.begin(state(20, torch.ones(5)))
    saver.finish()
    assert [one.step for one in manifest.committed(storage)] == [20]


def test_a_policy_can_stop_at_a_failure_of_the_storage(tmp_path: Path) -> None:
    storage = Gated(tmp_path)
    saver, told = saver_on(storage, on_storage_failure="stop")
    storage.fails = True
    saver.begin(state(10, torch.ones(5)))
    until_idle(saver)
    assert saver.broken
    saver.poll()
    assert told == []  # the ranks agree first, and then raise together
    with pytest.raises(StorageError, match="the disk is full"):
        saver.finish()
    assert told == [(10, "the disk is full")]


@pytest.mark.parametrize("kind", ["superseded", "unsavable"])
def test_what_ends_the_run_is_raised_on_the_training_thread(tmp_path: Path, kind: str) -> None:
    storage = LocalStorage(tmp_path)
    saver, _ = saver_on(storage)
    if kind == "superseded":
        storage.create(layout.restart_file(Writer(2)), b"{}")
        saver.begin(state(10, torch.ones(5)))
    else:
        saver.begin(State(10, {"model": {"hook": print}}, {}))
    until_idle(saver)
    saver.poll()
    assert saver.broken
    with pytest.raises(SupersededError if kind == "superseded" else ConfigError):
        saver.finish()
    assert manifest.committed(storage) == []


def test_the_last_save_waits_for_the_one_under_way(tmp_path: Path) -> None:
    storage = Gated(tmp_path)
    saver, told = saver_on(storage)
    storage.gate.clear()
    saver.begin(state(10, torch.ones(5)))
    threading.Timer(0.2, storage.gate.set).start()
    saver.save_now(state(13, torch.ones(5)))
    assert [one.step for one in told] == [10, 13]
    saver.begin(state(20, torch.ones(5)))
    saver.save_now(state(20, torch.zeros(5)))  # is under way already
    assert [one.step for one in manifest.committed(storage)] == [20, 13, 10]
    assert restored(tmp_path).shared["model"]["w"].sum() == 5


class Unheard(LocalStorage):
    """Storage that takes the first manifest, and then is away for so long that the save fails and cannot be cleaned."""

    away: bool | None = None

    def create(self, path: str, *chunks: Any, **options: Any) -> None:
        super().create(path, *chunks, **options)
        if path.endswith(layout.MANIFEST) and self.away is None:
            self.away = True
            raise StorageError("no answer")

    def delete(self, path: str) -> None:
        if self.away:
            raise StorageError("no answer")
        super().delete(path)

    def size(self, path: str) -> int | None:
        if self.away:  # the last that a failed save asks for
            self.away = False
            raise StorageError("no answer")
        return super().size(path)


def test_a_save_that_was_committed_although_it_failed_is_taken_for_saved(tmp_path: Path) -> None:
    storage = Unheard(tmp_path)
    saver, told = saver_on(storage)
    saver.save_now(state(10, torch.ones(5)))
    assert storage.away is False
    assert told[0] == (10, "no answer")
    assert told[1].step == 10
    assert [manifest.verify(storage, one.folder) for one in manifest.committed(storage)] == [[]]
    again, _ = saver_on(LocalStorage(tmp_path))
    with pytest.raises(CheckpointError, match="is committed already, and a checkpoint never changes"):
        again.save_now(state(10, torch.zeros(5)))


def test_a_failing_process_gives_the_save_under_way_a_chance(tmp_path: Path) -> None:
    storage = Gated(tmp_path)
    saver, told = saver_on(storage)
    storage.gate.clear()
    saver.begin(state(10, torch.ones(5)))
    saver.settle(0.05)
    assert told == []
    storage.gate.set()
    saver.settle(LIMIT_S)
    assert [one.step for one in told] == [10]


@pytest.mark.parametrize(("mode", "value"), [("min", -math.inf), ("max", math.inf), ("min", math.nan)])
def test_a_metric_that_is_no_finite_number_is_never_the_best(mode: Any, value: float) -> None:
    """As for retention; after minus infinity nothing else would ever be better."""
    keep = KeepBest("loss", mode)
    assert not better(keep, value, None)
    assert not better(keep, value, 0.5)
    assert better(keep, 0.5, None)


def test_an_evaluation_without_the_metric_of_keep_best_is_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A misspelt name would otherwise just keep nothing."""
    saver, _ = saver_on(LocalStorage(tmp_path), keep_best=KeepBest("val/los"))
    assert saver.ask_if_best({"val/loss": 0.5, "val/accuracy": 1.0}, None) is None
    assert saver.ask_if_best({}, 0.7) == 0.7
    assert not saver.due(1, by_clock=False)
    assert [record.message for record in caplog.records] == [
        "checkpoint.keep_best: no metric val/los in an evaluation; there is val/loss, val/accuracy"
    ]
    assert saver.ask_if_best({"val/los": 0.4}, 0.7) == 0.4
    assert saver.due(1, by_clock=False)
