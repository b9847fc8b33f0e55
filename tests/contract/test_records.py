import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from torchrelay.contract import events, layout, log_lines, records, reports
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.exit_codes import ExitCode, Outcome, outcome_of
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage, Storage, open_storage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path)


def test_an_outcome_survives_the_way_through_storage(storage: LocalStorage) -> None:
    failure = records.Failure("boom", 70, rank=1, node=0, step=7, traceback="Traceback ...")
    outcome = records.OutcomeRecord(Outcome.FAILED, 70, at=1.5, step=7, failure=failure, restarts=2)
    path = layout.attempt_file(1, "outcome")
    storage.create(path, records.dump(outcome))
    assert records.read(storage, records.OutcomeRecord, path) == outcome


def test_a_missing_record_is_none_and_a_damaged_one_is_named(storage: LocalStorage) -> None:
    assert records.read(storage, records.Heartbeat, "attempts/0001/heartbeat.json") is None
    for damage in (b"", b"{", b"[]", b'{"kind": "stop"}', b"\xff"):
        with pytest.raises(StorageError, match=r"stop\.json is damaged"):
            records.load(records.StopRequest, damage, "stop.json")


def test_keys_of_a_newer_version_are_passed_over() -> None:
    data = b'{"run_id": "x", "name": "x", "created_at": 1, "torchrelay": "9", "more": {}}'
    assert records.load(records.RunRecord, data, "run.json").torchrelay == "9"


RUN = records.RunRecord("r1", "r1", 1.0, "1")


@pytest.fixture
def memory() -> Iterator[Storage]:
    storage = open_storage(f"memory://test-{secrets.token_hex(4)}")
    yield storage
    storage.delete("")


def test_a_run_is_made_once_on_disk_and_elsewhere(storage: LocalStorage, memory: Storage) -> None:
    for home in (storage, memory):
        records.create_run(home, RUN)
        with pytest.raises(FileExistsError):
            records.create_run(home, RUN)
        assert records.read_run(home) == RUN


def test_storage_that_lets_a_run_be_made_twice_is_refused(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server of S3 does that ignores `If-None-Match`. What lies beside is not touched."""
    put = MemoryFileSystem.pipe_file
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda self, path, value, **_: put(self, path, value))
    memory.create("mine", b"data")
    with pytest.raises(ConfigError, match=f"cannot keep a run at {memory.url}: .*made twice.*name another storage"):
        records.create_run(memory, RUN)
    assert memory.list("") == ["mine"]


def test_a_run_that_could_not_be_tried_out_is_not_left_behind(memory: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    put = type(memory).create
    tries: list[str] = []

    def away_at_last(storage: Storage, path: str, *chunks: bytes) -> None:
        tries.append(path)
        if len(tries) == 2:
            raise StorageError("no route to host")
        put(storage, path, *chunks)

    monkeypatch.setattr(type(memory), "create", away_at_last)
    with pytest.raises(StorageError, match="no route"):
        records.create_run(memory, RUN)
    assert memory.list("") == []


def test_a_folder_without_a_run_says_how_to_find_one(storage: LocalStorage) -> None:
    with pytest.raises(ConfigError, match="torchrelay ls"):
        records.read_run(storage)


def test_the_newest_writer_is_the_last_restart_of_the_last_attempt(storage: LocalStorage) -> None:
    assert records.newest_writer(storage) is None
    storage.create(layout.restart_file(Writer(1, 3)), b"{}")
    storage.create(layout.restart_file(Writer(2, 0)), b"{}")
    storage.create(layout.restart_file(Writer(2, 11)), b"{}")
    assert records.newest_writer(storage) == Writer(2, 11)
    storage.create(layout.attempt_file(3, "attempt"), b"{}")
    newest = records.newest_writer(storage)
    assert newest is not None
    assert newest > Writer(2, 11)


def test_an_attempt_is_there_once_it_is_claimed(storage: LocalStorage) -> None:
    storage.create(layout.attempt_file(1, "attempt"), b"{}")
    about_to_be = storage.path(layout.attempt_folder(2))
    about_to_be.mkdir()
    (about_to_be / ".attempt.json.12.tmp").touch()
    assert records.attempt_numbers(storage) == [1]
    assert records.newest_writer(storage) == Writer(1, -1)
    storage.create(layout.attempt_file(2, "attempt"), b"{}")
    assert records.attempt_numbers(storage) == [1, 2]
    assert records.newest_writer(storage) == Writer(2, -1)


def test_checkpoint_folders_read_back() -> None:
    folder = layout.checkpoint_folder(1200, Writer(2, 1))
    assert layout.parse_checkpoint_folder(folder.removeprefix("checkpoints/")) == (1200, Writer(2, 1))
    for other in ("step-12", "step-000001200", "step-000001200-a0001-r00.tmp", "../step-000001200-a0001-r00"):
        assert layout.parse_checkpoint_folder(other) is None


def test_outcomes_of_exit_codes() -> None:
    assert outcome_of(0) is Outcome.COMPLETED
    assert outcome_of(75) is Outcome.PREEMPTED
    assert outcome_of(76) is Outcome.SUPERSEDED
    assert {outcome_of(code) for code in (1, 3, 70, 74, 78, 137)} == {Outcome.FAILED}
    assert {code for code in ExitCode if not code.retryable} == {0, 75, 76, 78}


def test_torn_event_lines_are_left_out() -> None:
    data = events.encode({"event": "step", "step": 1}) + b'{"event": "st\n[1]\n' + events.encode({"event": "ended"})
    assert [event["event"] for event in events.decode(data + b'{"event": "half')] == ["step", "ended"]


@pytest.mark.parametrize(
    "line",
    [
        log_lines.LogLine(0, 3, "hello [node 1] x"),
        log_lines.LogLine(12, None, ""),
        log_lines.LogLine(1, None, "noise", torchrun=True),
    ],
)
def test_log_lines_read_back(line: log_lines.LogLine) -> None:
    assert log_lines.parse(str(line)) == line


def test_other_lines_are_no_log_lines() -> None:
    assert log_lines.parse("[rank0]: x") is None


def test_ranks_register_and_report_the_earliest_first(tmp_path: Path) -> None:
    reports.register(tmp_path, 1)
    (registration,) = reports.registrations(tmp_path)
    assert registration.rank == 1
    failure = records.Failure("boom", 70)
    reports.report(tmp_path, reports.RankReport(1, 70, at=2.0, failure=failure))
    reports.report(tmp_path, reports.RankReport(0, 70, at=1.0))
    assert [(one.rank, one.failure) for one in reports.reports(tmp_path)] == [(0, None), (1, failure)]
