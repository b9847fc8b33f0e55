"""A local folder that is kept in step with storage."""

import logging
import time

import pytest

from torchrelay.contract.errors import StorageError
from torchrelay.contract.storage import LocalStorage
from torchrelay.mirror import Mirror


class CountingStorage(LocalStorage):
    def __init__(self, root):
        super().__init__(root)
        self.sent = []
        self.failing = False
        self.slow_s = 0.0

    def replace(self, path, data):
        if self.failing:
            raise StorageError("made up by the test")
        time.sleep(self.slow_s)
        self.sent.append(path)
        super().replace(path, data)


@pytest.fixture
def storage(tmp_path):
    return CountingStorage(tmp_path / "run")


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "local"
    (folder / "deep").mkdir(parents=True)
    return folder


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


def test_files_arrive_while_they_grow_and_whole_at_the_end(folder, storage):
    with Mirror(folder, storage, "tensorboard", interval_s=0.01):
        (folder / "deep" / "events").write_bytes(b"one")
        wait_until(lambda: storage.size("tensorboard/deep/events") == 3)
        with (folder / "deep" / "events").open("ab") as file:
            file.write(b"two")
        wait_until(lambda: storage.size("tensorboard/deep/events") == 6)
        (folder / "last").write_bytes(b"last")
    assert storage.read("tensorboard/deep/events") == b"onetwo"
    assert storage.read("tensorboard/last") == b"last"


def test_what_has_not_changed_is_not_sent_again(folder, storage):
    (folder / "events").write_bytes(b"one")
    mirror = Mirror(folder, storage, "tensorboard", interval_s=1000)
    assert mirror.sync()
    assert mirror.sync()
    assert mirror.close()
    assert storage.sent == ["tensorboard/events"]


def test_what_takes_long_to_send_is_sent_less_often(folder, storage):
    storage.slow_s = 0.2
    mirror = Mirror(folder, storage, "tensorboard", interval_s=0.01)
    (folder / "events").write_bytes(b"1")
    wait_until(lambda: storage.sent)
    for size in range(2, 20):
        (folder / "events").write_bytes(b"1" * size)
        time.sleep(0.02)
    assert len(storage.sent) == 1
    assert mirror.close()
    assert storage.size("tensorboard/events") == 19


def test_a_failing_storage_is_named_once_and_tried_again(folder, storage, caplog):
    storage.failing = True
    (folder / "events").write_bytes(b"one")
    with caplog.at_level(logging.WARNING):
        mirror = Mirror(folder, storage, "tensorboard", interval_s=1000)
        assert not mirror.sync()
        assert not mirror.sync()
    assert [record.message.count("made up by the test") for record in caplog.records] == [1]
    storage.failing = False
    assert mirror.close()
    assert storage.read("tensorboard/events") == b"one"
