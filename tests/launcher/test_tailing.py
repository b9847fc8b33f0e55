"""Reading logs and events that grow."""

from pathlib import Path

import pytest
from some_events import STEPS

from torchrelay.contract import events, layout
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay_launch.tailing import EventTail, LogTail, Tail, last_metrics


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_a_tail_gives_whole_lines_once(storage: LocalStorage) -> None:
    tail = Tail(storage, "log")
    assert tail.new_lines() == []
    storage.append("log", b"one\ntw")
    assert tail.new_lines() == [b"one"]
    storage.append("log", b"o\n\nthree")
    assert tail.new_lines() == [b"two", b""]
    assert tail.new_lines(final=True) == [b"three"]
    assert tail.new_lines(final=True) == []


def test_a_flood_of_output_is_read_in_pieces_and_to_its_end(storage: LocalStorage) -> None:
    line = b"[node 0] " + b"x" * 1000 + b"\n"
    storage.append(layout.node_log(1, 0), line * 10_000)
    tail = LogTail(storage, 1)
    first = tail.new_lines()
    assert 0 < len(first) < 10_000
    assert len(first) + len(tail.new_lines(final=True)) == 10_000


def test_events_come_gang_by_gang_and_torn_lines_wait(storage: LocalStorage) -> None:
    tail = EventTail(storage, 1)
    storage.append(layout.events_file(Writer(1)), events.encode(STEPS[0]) + b'{"event": "st')
    storage.append(layout.events_file(Writer(2)), events.encode(STEPS[0]))
    assert tail.new_events() == [STEPS[0]]
    storage.append(layout.events_file(Writer(1)), b'ep", "step": 10}\nnot json\n')
    storage.append(layout.events_file(Writer(1, 1)), events.encode(STEPS[1]))
    assert [event["step"] for event in tail.new_events()] == [10, 10]


def test_the_last_metrics_of_an_attempt_without_events_are_the_ones_before(storage: LocalStorage) -> None:
    storage.append(layout.events_file(Writer(1)), b"".join(map(events.encode, STEPS)))
    assert last_metrics(storage, 2) == {"loss": 0.25, "samples_per_s": 640.0, "val/loss": 0.3, "val/accuracy": 0.9}
    assert last_metrics(storage, 0) == {}
