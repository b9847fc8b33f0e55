"""Events that outlast trouble with storage, and lines that read well."""

import os
import threading
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from torchrelay.attempt import Attempt
from torchrelay.contract import events
from torchrelay.contract.errors import StorageError
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage, open_storage
from torchrelay.observe import Observer, lines, observer
from torchrelay.observe import curves as curves_module
from torchrelay.observe.curves import Curves, CurvesFolder
from torchrelay.observe.event_log import EventLog


def test_events_wait_for_a_storage_that_comes_back(tmp_path, caplog):
    storage = LocalStorage(tmp_path / "run")
    log = EventLog(storage, "events/a.jsonl")
    log.write("step", step=1)
    in_the_way = tmp_path / "run" / "events"
    in_the_way.rename(tmp_path / "aside")
    in_the_way.write_text("a file")
    log.write("step", step=2)
    log.flush()
    log.flush()
    assert caplog.text.count("events are not written for now") == 1
    in_the_way.unlink()
    (tmp_path / "aside").rename(in_the_way)
    log.flush()
    assert [event["step"] for event in events.decode(storage.read("events/a.jsonl"))] == [1, 2]


def test_events_that_come_fast_go_together(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path)
    appended = []
    monkeypatch.setattr(storage, "append", lambda path, data: appended.append(data))
    log = EventLog(storage, "events/a.jsonl")
    for step in range(100):
        log.write("step", step=step)
    log.flush()
    assert len(appended) <= 3
    assert len(list(events.decode(b"".join(appended)))) == 100


def test_curves_give_up_quietly(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    curves = Curves(tmp_path / "file" / "below", 0)
    curves.scalars(1, {"loss": 1.0})
    curves.scalars(2, {"loss": 1.0})
    curves.close()
    assert caplog.text.count("no more TensorBoard curves") == 1


def drawn(storage: LocalStorage) -> list[int]:
    """The steps that TensorBoard shows, in the order in which it does."""
    curves = EventAccumulator(str(storage.path("tensorboard")))
    curves.Reload()
    return [point.step for point in curves.Scalars("train/loss")]


def draw(storage: LocalStorage, purge_step: int, steps: range) -> None:
    curves = CurvesFolder(storage, "tensorboard").begin(purge_step)
    for step in steps:
        curves.scalars(step, {"loss": float(step)})
    curves.close()


def test_curves_of_many_gangs_within_a_second_are_read_in_their_order(tmp_path):
    storage = LocalStorage(tmp_path)
    for gang in range(12):
        draw(storage, gang + 1, range(gang + 1, 20))
    assert drawn(storage) == list(range(1, 20))


def test_curves_after_those_of_a_machine_whose_clock_is_ahead(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path)
    with monkeypatch.context() as ahead:
        now = time.time()
        ahead.setattr(curves_module.time, "time", lambda: now + 3600)
        draw(storage, 0, range(1, 8))
    draw(storage, 5, range(5, 10))
    assert drawn(storage) == list(range(1, 10))


def test_a_point_is_there_for_others_at_once(tmp_path):
    storage = LocalStorage(tmp_path)
    curves = CurvesFolder(storage, "tensorboard").begin(0)
    curves.scalars(3, {"loss": 1.0})
    assert drawn(storage) == [3]
    curves.close()


def test_curves_end_quietly_on_a_full_disk(caplog):
    curves = Curves(Path("/dev/full"), 0)
    curves.scalars(1, {"loss": 1.0})
    curves.scalars(2, {"loss": 1.0})
    curves.close()
    assert caplog.text.count("no more TensorBoard curves") == 1


def test_a_tensorboard_that_does_not_work_ends_the_curves_only(tmp_path, caplog, monkeypatch):
    def refuse(*_):
        raise TypeError("descriptors cannot be created directly")

    monkeypatch.setattr("tensorboard.summary.writer.record_writer.RecordWriter.write", refuse)
    curves = Curves(tmp_path / "curves", 0)
    curves.scalars(1, {"loss": 1.0})
    curves.scalars(2, {"loss": 1.0})
    curves.close()
    assert caplog.text.count("no more TensorBoard curves: descriptors cannot") == 1


def test_a_progress_line():
    metrics = {"loss": 0.41234, "lr": 1e-3, "samples_per_s": 812.4, "step_s": 0.01, "memory_bytes": 10**9}
    line = lines.progress(200, 1000, metrics, 12.4)
    assert line == "step 200/1000 (20 %)  loss 0.4123  lr 1.0e-03  812 samples/s  eta 0:12"
    assert lines.progress(200, None, {"loss": 3.0}, None) == "step 200  loss 3"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.5, "0.5000"), (0.0, "0.0000"), (2.0, "2"), (1e-5, "1e-05"), (123456.7, "1.23e+05"), (float("nan"), "nan")],
)
def test_numbers(value, text):
    assert lines.number("loss", value) == text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.7, "1:00"), (3600 + 125, "1:02:05")])
def test_clocks(seconds, text):
    assert lines.clock(seconds) == text


def test_a_line_that_a_full_disk_took_half_of_costs_no_event(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path)
    log = EventLog(storage, "events/a.jsonl")
    append = storage.append

    def half(path: str, data: bytes) -> None:
        append(path, data[: len(data) // 2])
        raise StorageError("full")

    monkeypatch.setattr(storage, "append", half)
    log.write("checkpoint", step=1)
    monkeypatch.setattr(storage, "append", append)
    log.write("checkpoint", step=2)
    log.flush()
    assert [event["step"] for event in events.read_all(storage)] == [1, 2]


def test_storage_errors_are_the_only_ones_that_events_swallow(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path)
    log = EventLog(storage, "events/a.jsonl")

    def refuse(path: str, data: bytes) -> None:
        raise StorageError("full")

    monkeypatch.setattr(storage, "append", refuse)
    log.write("step", step=1)

    def mistake(path: str, data: bytes) -> None:
        raise TypeError

    monkeypatch.setattr(storage, "append", mistake)
    with pytest.raises(TypeError):
        log.flush()


@pytest.fixture
def afar():
    return open_storage(f"memory://observe-{os.urandom(4).hex()}")


def test_on_object_storage_the_end_leaves_events_and_curves_there(afar):
    observing = Observer(Attempt(afar, Writer(1)))
    observing.step(5, 10, {"loss": 0.5}, None)
    local = Path(observing._folder.folder)
    observing.close()
    assert [event["step"] for event in events.read_all(afar)] == [5]
    [name] = afar.list("tensorboard")
    assert b"train/loss" in afar.read(f"tensorboard/{name}")
    assert not local.exists()


def test_curves_of_a_rank_that_is_killed_lie_where_the_supervisor_tidies_up(afar, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHRELAY_REPORTS", str(tmp_path / "start-000" / "reports"))
    (tmp_path / "start-000" / "reports").mkdir(parents=True)
    observing = Observer(Attempt(afar, Writer(1)))
    assert Path(observing._folder.folder).parent == tmp_path / "start-000"
    observing.close()


def test_a_flush_sends_curves_before_their_time(afar):
    observing = Observer(Attempt(afar, Writer(1)))
    observing.step(5, 10, {"loss": 0.5}, None)
    observing.flush()
    deadline = time.monotonic() + 10  # the mirror's own round comes after 30 s
    while not afar.list("tensorboard") and time.monotonic() < deadline:
        time.sleep(0.02)
    assert afar.list("tensorboard")
    observing.close()


def test_a_storage_that_is_away_does_not_hold_up_the_end(afar, monkeypatch, caplog):
    monkeypatch.setattr(observer, "_CLOSE_S", 0.2)
    answers = threading.Event()
    monkeypatch.setattr(type(afar), "flush", lambda _: answers.wait())
    observing = Observer(Attempt(afar, Writer(1)))
    observing.close()
    assert "the storage does not answer" in caplog.text
    answers.set()
