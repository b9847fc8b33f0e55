"""Claims: who may write, and what a run without a launcher leaves for those that read it."""

import pytest

from torchrelay import attempt
from torchrelay.attempt import Attempt, Unsupervised
from torchrelay.contract import environment, layout, records
from torchrelay.contract.errors import ConfigError, SupersededError
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import AttemptRecord, Heartbeat, SpecRecord
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.units import Interval


def test_attempts_count_up_and_only_the_newest_may_write(tmp_path):
    asked = Unsupervised("job", str(tmp_path), "20 steps")
    first, second = attempt.claim_next(asked), attempt.claim_next(asked)
    assert [first.writer, second.writer] == [Writer(1), Writer(2)]
    attempt.claim_writer(second)
    with pytest.raises(SupersededError, match=r"attempt 1 .* attempt 2 .* owns the run"):
        attempt.claim_writer(first)
    with pytest.raises(SupersededError):
        attempt.claim_writer(second)
    assert records.newest_writer(second.storage) == Writer(2)
    assert records.read_run(second.storage).name == "job"
    assert second.checkpoint.every == Interval(steps=20)


def test_a_later_restart_owns_the_run(tmp_path):
    first = attempt.claim_next(Unsupervised("job", str(tmp_path)))
    attempt.claim_writer(first)
    again = Attempt(first.storage, Writer(1, 1))
    attempt.claim_writer(again)
    with pytest.raises(SupersededError):
        attempt.claim_writer(Attempt(first.storage, Writer(1, 0)))


def test_a_number_that_is_taken_in_between_is_left(tmp_path, monkeypatch):
    storage = LocalStorage(tmp_path / "job")
    real = records.attempt_numbers
    numbers = iter([[], real])

    def racing(found: LocalStorage) -> list[int]:
        answer = next(numbers, real)
        if answer == []:
            record = AttemptRecord(1, "none", 0.0, "there", "/")
            storage.create(layout.attempt_file(1, "attempt"), records.dump(record))
            return []
        return real(found)

    monkeypatch.setattr(records, "attempt_numbers", racing)
    assert attempt.claim_next(Unsupervised("job", str(tmp_path))).writer == Writer(2)


def test_the_heartbeat_names_this_process(tmp_path):
    own = attempt.claim_next(Unsupervised("job", str(tmp_path)))
    attempt.beat(own)
    attempt.beat(own)
    heart = records.read(own.storage, Heartbeat, layout.attempt_file(1, "heartbeat"))
    assert heart.pid > 0
    assert heart.process_started > 0


def test_a_supervisors_environment(tmp_path, monkeypatch):
    assert _of_environment(monkeypatch, None) is None
    with pytest.raises(ConfigError, match=r"has no attempts/0003/spec\.json"):
        _of_environment(monkeypatch, str(tmp_path))
    spec = {"checkpoint": {"every": "5m"}, "resources": {"gpus_per_node": 2}, "restarts": {"watchdog": "1h"}}
    storage = LocalStorage(tmp_path)
    storage.create(layout.attempt_file(3, "spec"), records.dump(SpecRecord(spec, {"name": "x.yaml:1:1"})))
    found = _of_environment(monkeypatch, str(tmp_path))
    assert (found.writer, found.supervised) == (Writer(3, 2), True)
    assert (found.gpus_per_node, found.watchdog_s) == (2, 3600.0)
    assert found.checkpoint.every.seconds == 300
    assert found.train is None


def _of_environment(monkeypatch, url):
    if url is None:
        monkeypatch.delenv(environment.RUN, raising=False)
    else:
        monkeypatch.setenv(environment.RUN, url)
    monkeypatch.setenv(environment.ATTEMPT, "3")
    monkeypatch.setenv(environment.RESTART, "2")
    return attempt.of_environment()


def test_without_a_spec_nothing_is_said_about_gpus(tmp_path):
    own = attempt.claim_next(Unsupervised("job", str(tmp_path)))
    assert own.gpus_per_node is None
    assert own.watchdog_s == 0.0
    with pytest.raises(ConfigError, match="save_every='x'"):
        attempt.claim_next(Unsupervised("job", str(tmp_path), "x"))
