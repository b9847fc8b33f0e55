"""S3 that fails at random, or stays away: operations survive it, or end in time and say what happened.

`FaultyProxy` stands between torchrelay and a real S3 server. Every test names its seed.
"""

import os
import random
import time

import pytest
from faulty_proxy import KINDS, FaultyProxy

from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.storage import open_storage

QUICK = {"config_kwargs": {"read_timeout": 1, "connect_timeout": 1}, "part_bytes": 5 * 2**20, "flush_s": 1000}


@pytest.fixture
def proxy(s3_environment):
    with FaultyProxy(s3_environment, seed=7, hang_s=1.5) as running:
        yield running


@pytest.fixture
def storage(proxy, s3_url):
    opened = open_storage(s3_url, {**QUICK, "endpoint_url": proxy.url, "retry_s": 60})
    opened.list("")
    return opened


@pytest.mark.parametrize("kind", KINDS)
def test_every_operation_survives_each_kind_of_fault(storage, proxy, kind):
    """Half of all requests fail in one way; every operation gives the right answer all the same."""
    proxy.rates = {kind: 0.3 if kind == "timeout" else 0.5}
    _do_everything(storage, f"run-{kind}")
    if kind != "truncated":  # only answers with a body can be cut
        assert proxy.done[kind] >= 5
    assert proxy.done[kind] >= 1


def test_a_mixture_of_all_faults(storage, proxy):
    proxy.rates = dict.fromkeys(KINDS, 0.07)
    before = random.getstate()
    for turn in range(2):
        _do_everything(storage, f"turn-{turn}")
    assert random.getstate() == before, "retries must not change what a training draws"
    assert len([kind for kind in KINDS if proxy.done[kind]]) >= 5


def _do_everything(storage, folder):
    data = os.urandom(2**16)
    storage.create(f"{folder}/record", data)
    assert storage.read(f"{folder}/record") == data
    assert storage.read_from(f"{folder}/record", 5, 10) == data[5:15]
    with storage.open(f"{folder}/record") as file:
        assert file.read() == data
    with pytest.raises(FileExistsError):
        storage.create(f"{folder}/record", data)
    storage.replace(f"{folder}/record", b"new")
    assert storage.read(f"{folder}/record") == b"new"
    for number in range(5):
        storage.append(f"{folder}/node.log", f"line {number}\n".encode())
        storage.flush()
    assert storage.read(f"{folder}/node.log").split() == b"line 0 line 1 line 2 line 3 line 4".split()
    assert storage.size(f"{folder}/missing") is None
    assert storage.list(folder) == ["node.log", "record"]
    storage.delete(folder)
    assert storage.list(folder) == []


def test_a_large_object_survives_faults_in_its_parts(storage, proxy):
    data = os.urandom(22 * 2**20)
    proxy.rates = {"500": 0.1, "503": 0.1, "lost": 0.15, "reset": 0.1, "truncated": 0.1}
    storage.create("large", data[: 2**20], memoryview(data)[2**20 :])
    assert storage.read("large") == data
    assert sum(proxy.done.values()) >= 3


@pytest.mark.parametrize("kind", ["lost", "timeout"])
def test_a_create_whose_answer_was_lost_is_a_success(storage, proxy, kind):
    """The put went through; sent again, it finds the name taken, by itself."""
    proxy.script = [("PUT", kind), ("PUT", kind)]
    storage.create("claim", b"mine")
    assert not proxy.script
    assert storage.read("claim") == b"mine"
    with pytest.raises(FileExistsError):
        storage.create("claim", b"mine")


def test_a_lost_answer_does_not_make_anothers_claim_ours(storage, proxy, s3_url):
    """The same bytes, put by somebody else before: the retry must not take that for its own success."""
    open_storage(s3_url).create("claim", b"the same")
    proxy.script = [("PUT", "lost"), ("PUT", "500")]
    with pytest.raises(FileExistsError):
        storage.create("claim", b"the same")
    assert not proxy.script


def test_a_completed_upload_whose_answer_was_lost_is_a_success(storage, proxy):
    data = os.urandom(11 * 2**20)
    storage.size("warm")
    complete = _request_of_completing(storage, proxy, data)
    proxy.script = [(complete.partition("?")[0].replace("/first", "/second") + "?uploadId", "lost")]
    storage.create("second", data)
    assert not proxy.script
    assert storage.read("second") == data
    proxy.script = [(complete.partition("?")[0].replace("/first", "/second") + "?uploadId", "lost")]
    storage.replace("second", data[::-1])
    assert not proxy.script
    assert storage.read("second") == data[::-1]


def _request_of_completing(storage, proxy, data):
    storage.create("first", data)
    return next(line for line in proxy.requests if line.startswith("POST") and "uploadId" in line)


@pytest.mark.parametrize("kind", ["500", "503", "reset", "timeout"])
def test_a_storage_that_stays_away_is_an_error_within_the_limit(proxy, s3_url, kind):
    storage = open_storage(s3_url, {**QUICK, "endpoint_url": proxy.url, "retry_s": 4})
    storage.create("before", b"x")
    proxy.rates = {kind: 1.0}
    for act in (
        lambda: storage.create("late", b"x"),
        lambda: storage.read("before"),
        lambda: storage.create("large", bytes(11 * 2**20)),
    ):
        started = time.monotonic()
        with pytest.raises(StorageError, match=r"cannot (write|read) s3://.*tried \d+ times in \d s") as caught:
            act()
        assert 1 < time.monotonic() - started < 60  # which one request of the driver's would take
        assert proxy.url in str(caught.value)
        assert caught.value.exit_code == 74
    proxy.rates = {}
    assert storage.read("before") == b"x"


def test_refused_credentials_are_the_users_to_mend_at_first_and_an_outage_later(proxy, s3_url):
    """A key that never worked is a mistake (78, never retried); one that stops working is being changed (74)."""
    storage = open_storage(s3_url, {**QUICK, "endpoint_url": proxy.url, "retry_s": 30.5})
    proxy.script = [("", "403")] * 2
    started = time.monotonic()
    with pytest.raises(ConfigError, match="refuses these credentials"):
        storage.create("file", b"x")
    with pytest.raises(ConfigError, match="refuses these credentials"):
        storage.size("file")
    storage.create("file", b"x")
    proxy.script = [("", "403")]
    with pytest.raises(StorageError, match="refuses these credentials"):
        storage.read("file")
    assert time.monotonic() - started < 30.5  # nothing was tried again


def test_appended_lines_survive_an_outage(proxy, s3_url):
    storage = open_storage(s3_url, {**QUICK, "endpoint_url": proxy.url, "retry_s": 1.5})
    storage.append("node.log", b"before\n")
    storage.flush()
    proxy.rates = {"503": 1.0}
    storage.append("node.log", b"during\n")
    with pytest.raises(StorageError, match="503"):
        storage.flush()
    proxy.rates = {}
    storage.append("node.log", b"after\n")
    storage.flush()
    assert storage.read("node.log") == b"before\nduring\nafter\n"


def test_what_was_refused_is_not_kept_and_waits_for_no_memory(proxy, s3_url, monkeypatch):
    """Who appends keeps what was refused, and comes again with it: it must not be there twice, nor pile up."""
    monkeypatch.setattr("torchrelay.contract.object_appending.MOST_WAITING_BYTES", 100)
    storage = open_storage(s3_url, {**QUICK, "endpoint_url": proxy.url, "retry_s": 1.5})
    storage.append("node.log", b"a" * 99 + b"\n")
    proxy.rates = {"503": 1.0}
    for _ in range(2):
        with pytest.raises(StorageError, match="503"):
            storage.append("node.log", b"late\n")
    proxy.rates = {}
    storage.append("node.log", b"late\n")
    storage.flush()
    assert storage.read("node.log") == b"a" * 99 + b"\nlate\n"
