"""Object storage through fsspec drivers other than S3: memory, and one that has no exclusive create."""

import os
import secrets
import threading
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from torchrelay.contract.errors import StorageError
from torchrelay.contract.storage import open_storage


class Flaky(MemoryFileSystem):
    """Takes what is written and then says that the connection was lost, as often as it is told to."""

    protocol = ("flaky",)
    store: ClassVar[dict] = {}
    pseudo_dirs: ClassVar[list] = [""]
    losses = 0
    cuts = 0

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("flaky://").strip("/")

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        super().pipe_file(path, value, mode=mode, **kwargs)
        if Flaky.losses:
            Flaky.losses -= 1
            raise ConnectionResetError("made up by the test")

    def cat_file(self, path, start=None, end=None, **kwargs):
        data = super().cat_file(path, start=start, end=end, **kwargs)
        if Flaky.cuts:
            Flaky.cuts -= 1
            return data[: len(data) // 2]
        return data


class Azure(Flaky):
    """Sends a put again by itself when its answer was lost, as azure-core and aiohttp do."""

    protocol = ("az",)
    kinds: ClassVar[dict] = {}

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("az://").strip("/")

    def pipe_file(self, path, value, mode="overwrite", content_settings=None, **kwargs):
        for _ in range(2):
            try:
                super().pipe_file(path, value, mode=mode, **kwargs)
            except ConnectionResetError:
                Azure.kinds[path] = content_settings
            else:
                Azure.kinds[path] = content_settings
                return

    def info(self, path, **kwargs):
        return {**super().info(path, **kwargs), "content_settings": {"content_type": Azure.kinds.get(path)}}


@pytest.fixture
def azure(monkeypatch):
    monkeypatch.setattr("torchrelay.contract.object_connection.driver", lambda _protocol: Azure)
    monkeypatch.setattr(
        "torchrelay.contract.object_writing._azure_settings", lambda token: f"x; torchrelay-put={token}"
    )
    Flaky.store.clear()
    Flaky.losses = Flaky.cuts = 0
    return open_storage("az://runs", {"retry_s": 2})


@pytest.fixture
def flaky():
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    Flaky.store.clear()
    Flaky.losses = Flaky.cuts = 0
    return open_storage("flaky://runs", {"retry_s": 2})


@pytest.fixture
def memory():
    storage = open_storage(f"memory://test-{secrets.token_hex(4)}")
    yield storage
    storage.delete("")


def test_memory_is_a_home(memory):
    memory.create("a/b", b"x" * 1000)
    assert memory.read("a/b") == b"x" * 1000
    assert memory.list("") == ["a"]
    assert memory.folder("a").list("") == ["b"]
    with pytest.raises(FileExistsError, match="already exists: 'memory://test-"):
        memory.create("a/b", b"y")
    memory.replace("a/b", b"z")
    assert memory.read_from("a/b", 0, 5) == b"z"
    assert open_storage(memory.url).read("a/b") == b"z"


def test_threads_that_create_in_memory_have_one_winner(memory):
    wins = []

    def claim(number):
        for turn in range(50):
            try:
                memory.create(f"claim-{turn}", b"the same")
            except FileExistsError:
                continue
            wins.append(turn)

    threads = [threading.Thread(target=claim, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(wins) == list(range(50))


def test_threads_read_different_ranges_of_one_object(memory):
    data = os.urandom(100_000)
    memory.create("data", data)
    wrong = []

    def read(number):
        starts = range(number, 50_000, 5_000)
        wrong.extend(at for at in starts if memory.read_from("data", at, 1_000) != data[at : at + 1_000])

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_a_driver_without_exclusive_create_is_asked_first(flaky):
    flaky.create("claim", b"one")
    with pytest.raises(FileExistsError):
        flaky.create("claim", b"two")
    assert flaky.read("claim") == b"one"


def test_a_driver_of_any_kind_is_retried(flaky):
    Flaky.losses = 2
    flaky.create("file", b"content")
    assert Flaky.losses == 0
    Flaky.cuts = 2
    assert flaky.read_from("file", 1, 4) == b"onte"
    assert Flaky.cuts == 0
    Flaky.losses = 10**6
    with pytest.raises(StorageError, match=r"cannot write flaky://runs/late: made up by the test; tried \d+ times"):
        flaky.create("late", b"x")


def test_a_conditional_create_after_a_lost_answer_is_told_by_its_content(flaky, monkeypatch):
    monkeypatch.setattr("torchrelay.contract.object_connection.EXCLUSIVE", ("flaky",))
    Flaky.losses = 1
    flaky.create("claim", b"mine")
    with pytest.raises(FileExistsError):
        flaky.create("claim", b"mine")
    Flaky.store.clear()
    flaky.create("other", b"theirs")
    with pytest.raises(FileExistsError):
        flaky.create("other", b"mine")


def test_a_driver_that_retries_by_itself_does_not_lose_its_own_claim(azure):
    Flaky.losses = 1
    azure.create("claim", b"mine")
    assert azure.read("claim") == b"mine"
    for content in (b"mine", b"other"):  # the same content is not enough
        with pytest.raises(FileExistsError):
            azure.create("claim", content)
    Flaky.losses = 1
    azure.replace("claim", b"new")
    assert azure.read("claim") == b"new"


def test_large_objects_are_read_in_parts(memory):
    data = os.urandom(50_001)
    small_parts = open_storage(memory.url, {"part_bytes": 1000, "parallel": 3})
    small_parts.create("data", data)
    assert small_parts.read("data") == data
    assert small_parts.open("data").read() == data
    assert small_parts.read_from("data", 999, 2002) == data[999:3001]
