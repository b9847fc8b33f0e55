"""What each operation costs in requests, as docs/storage.md lists it."""

import pytest
from faulty_proxy import FaultyProxy

from torchrelay.contract.storage import open_storage


@pytest.fixture
def proxy(s3_environment):
    with FaultyProxy(s3_environment) as running:
        yield running


@pytest.fixture
def storage(proxy, s3_url):
    opened = open_storage(s3_url, {"endpoint_url": proxy.url, "part_bytes": 5 * 2**20, "flush_s": 1000})
    opened.create("there", b"x" * 100)
    opened.append("node.log", b"x" * 100)
    opened.flush()
    return opened


def large(storage):
    storage.create("large", bytes(11 * 2**20))


def append(storage):
    for _ in range(100):
        storage.append("node.log", b"line\n")
    storage.flush()


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (lambda storage: storage.create("new", b"x"), ["PUT"]),
        (large, ["POST", "PUT", "PUT", "PUT", "POST"]),
        (lambda storage: storage.replace("there", b"x"), ["PUT"]),
        (append, ["PUT"]),
        (lambda storage: storage.read("there"), ["GET"]),
        (lambda storage: storage.open("there").read(), ["HEAD", "GET"]),
        (lambda storage: storage.read_from("there", 10), ["HEAD", "GET"]),
        (lambda storage: storage.size("there"), ["HEAD"]),
        (lambda storage: storage.size("missing"), ["HEAD", "GET"]),
        (lambda storage: storage.list(""), ["GET"]),
        (lambda storage: storage.delete("there"), ["GET", "HEAD", "POST"]),
        (lambda storage: storage.delete("."), ["GET", "POST"]),
    ],
)
def test_requests(storage, proxy, act, expected):
    proxy.requests.clear()
    act(storage)
    methods = [line.partition(" ")[0] for line in proxy.requests]
    assert sorted(methods) == sorted(expected), proxy.requests


def test_a_missing_object_takes_two_requests(storage, proxy):
    proxy.requests.clear()
    with pytest.raises(FileNotFoundError):
        storage.read("missing")
    assert [line.partition(" ")[0] for line in proxy.requests] == ["GET", "GET"], proxy.requests
