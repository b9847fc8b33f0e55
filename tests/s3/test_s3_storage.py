"""The Storage protocol on a real S3 server, as a user sets it up: everything comes from the environment."""

import os
import subprocess
import sys
import time

import pytest
from faulty_proxy import FaultyProxy
from s3_settings import SECRET

from torchrelay.contract import object_connection, object_writing, records
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.object_parts import in_parallel
from torchrelay.contract.storage import open_storage


@pytest.fixture
def storage(s3_url):
    return open_storage(s3_url)


def test_objects_come_back(storage):
    storage.create("a/b/record.json", b"one", b" and ", memoryview(b"two"))
    assert storage.read("a/b/record.json") == b"one and two"
    assert storage.size("a/b/record.json") == 11
    assert storage.list("") == ["a"]
    assert storage.list("a") == ["b"]
    assert storage.list("a/b") == ["record.json"]
    storage.replace("a/b/record.json", b"new")
    assert storage.read("a/b/record.json") == b"new"
    assert storage.folder("a").read("b/record.json") == b"new"


def test_missing_objects(storage):
    assert storage.size("nothing") is None
    assert storage.list("nothing") == []
    storage.delete("nothing")
    for read in (storage.read, storage.open, lambda path: storage.read_from(path, 0)):
        with pytest.raises(FileNotFoundError, match=r"no such object: .*/runs/nothing"):
            read("nothing")
    storage.create("folder/file", b"x")
    assert storage.size("folder") is None
    with pytest.raises(FileNotFoundError):
        storage.read("folder")


def test_empty_objects(storage):
    storage.create("empty", b"")
    assert storage.size("empty") == 0
    assert storage.read("empty") == b""
    assert storage.read_from("empty", 0) == b""
    with storage.open("empty") as file:
        assert file.read() == b""


def test_create_is_exclusive(storage):
    storage.create("claim", b"first")
    with pytest.raises(FileExistsError, match="already exists"):
        storage.create("claim", b"second")
    with pytest.raises(FileExistsError):
        storage.create("claim", b"first")  # the same content makes it no less taken
    assert storage.read("claim") == b"first"


def test_reading_in_pieces(storage):
    data = os.urandom(300_000)
    storage.create("data", data)
    assert storage.read_from("data", 100) == data[100:]
    assert storage.read_from("data", 100, 50) == data[100:150]
    assert storage.read_from("data", 299_990, 50) == data[-10:]
    assert storage.read_from("data", 400_000) == b""
    with storage.open("data") as file:
        assert file.read(10) == data[:10]
        file.seek(-5, os.SEEK_END)
        assert file.read() == data[-5:]
        file.seek(1000)
        assert file.read(200_000) == data[1000:201_000]
        assert file.tell() == 201_000


def test_large_objects_go_in_parts(s3_url, monkeypatch):
    data = os.urandom(13 * 2**20 + 17)
    storage = open_storage(s3_url, {"part_bytes": 5 * 2**20, "parallel": 3})
    sent = []
    cut = object_writing.cut
    monkeypatch.setattr(object_writing, "cut", lambda *args: [sent.append(part) or part for part in cut(*args)])
    seen = bytearray()
    storage.create("large", data[:100], b"", memoryview(data)[100:], seen=seen.extend)
    assert seen == data
    assert len(sent) == 3
    assert storage.size("large") == len(data)
    assert storage.read("large") == data
    assert open_storage(s3_url).read("large") == data
    with storage.open("large") as file:
        assert file.read() == data
        into = bytearray(12 * 2**20)
        file.seek(7)
        assert file.readinto(into) == len(into)
        assert into == data[7 : 7 + len(into)]
    with pytest.raises(FileExistsError):
        storage.create("large", data[::-1])
    storage.replace("large", data[:-1])
    assert storage.read("large") == data[:-1]


def test_a_failed_upload_publishes_nothing_and_leaves_no_parts(s3_url, s3_bucket, monkeypatch):
    storage = open_storage(s3_url, {"part_bytes": 5 * 2**20, "retry_s": 5})
    call = object_connection.Connection.call

    def failing(self, doing, key, method, *args, **kwargs):
        if args == ("upload_part",) and kwargs["PartNumber"] == 2:
            raise StorageError("made up by the test")
        return call(self, doing, key, method, *args, **kwargs)

    monkeypatch.setattr(object_connection.Connection, "call", failing)
    with pytest.raises(StorageError, match="made up"):
        storage.create("large", bytes(12 * 2**20))
    assert storage.size("large") is None
    uploads = storage.connection.call("list", "", "call_s3", "list_multipart_uploads", Bucket=s3_bucket)
    assert not uploads.get("Uploads")


def test_what_others_write_is_seen_at_once(s3_url):
    mine, other = open_storage(s3_url), open_storage(s3_url, {"retry_s": 77})
    assert mine.connection is not other.connection
    assert mine.list("folder") == []
    other.create("folder/one", b"1")
    assert mine.list("folder") == ["one"]
    mine.create("folder/two", b"2")
    assert other.list("folder") == ["one", "two"]
    other.delete("folder/one")
    assert mine.list("folder") == ["two"]
    assert mine.size("folder/one") is None


def test_deleting_a_folder_deletes_all_below_and_nothing_beside(storage):
    for number in range(30):
        storage.create(f"step-1/deep/{number}", b"x")
    storage.create("step-10/file", b"x")
    storage.create("step-1.txt", b"x")
    storage.delete("step-1")
    assert storage.list("") == ["step-1.txt", "step-10"]


def test_what_s3_did_not_delete_is_tried_again_or_an_error(storage, monkeypatch):
    """A bulk delete answers 200 and names what it left."""
    call = object_connection.Connection.call
    errors = [{"Key": "k", "Code": "SlowDown"}], [{"Key": "k", "Code": "AccessDenied", "Message": "locked"}]
    left = [*errors, [], errors[0]]

    def answering(self, doing, key, method, *args, **kwargs):
        if args == ("delete_objects",) and (failure := left.pop()):
            return {"Errors": failure}
        return call(self, doing, key, method, *args, **kwargs)

    pauses = []
    storage.create("folder/file", b"x")
    monkeypatch.setattr(object_connection.Connection, "call", answering)
    monkeypatch.setattr(object_connection, "pause_s", lambda tries: pauses.append(tries) or 0.0)
    storage.delete("folder")
    assert len(left) == 2
    assert pauses == [1]  # it said that it had too much to do
    assert storage.list("folder") == []
    storage.create("folder/file", b"x")
    with pytest.raises(StorageError, match=r"cannot delete .*: locked"):
        storage.delete("folder")


def test_listing_more_than_a_page(storage):
    names = [f"{number:05d}" for number in range(1100)]
    in_parallel(lambda name: storage.replace(f"many/{name}", b""), names, parallel=8)
    assert storage.list("many") == names
    storage.delete("many")
    assert storage.list("many") == []


def test_paths_stay_below_the_folder(storage):
    for path in ("../up", "a/../../up", "/etc/passwd", "a\0b"):
        with pytest.raises(StorageError, match="refusing the path"):
            storage.read(path)


def test_appended_objects_read_as_one(s3_url, monkeypatch):
    monkeypatch.setattr("torchrelay.contract.object_appending.SEGMENT_BYTES", 100)
    writer, reader = open_storage(s3_url, {"flush_s": 1000}), open_storage(s3_url)
    written = b""
    for number in range(60):
        line = f"line {number}\n".encode()
        writer.append("logs/node.log", line)
        written += line
        if number % 7 == 0:
            writer.flush()
            assert reader.read("logs/node.log") == written
            assert reader.size("logs/node.log") == len(written)
    writer.flush()
    assert reader.list("logs") == ["node.log"]
    assert reader.list("logs/node.log") == []
    assert reader.read_from("logs/node.log", 95, 20) == written[95:115]
    with reader.open("logs/node.log") as file:
        assert list(file) == written.splitlines(keepends=True)
    reader.delete("logs")
    assert reader.list("") == []


def test_what_is_appended_shows_after_a_while(s3_url):
    writer, reader = open_storage(s3_url, {"flush_s": 0.1}), open_storage(s3_url)
    writer.append("events.jsonl", b"{}\n")
    deadline = time.monotonic() + 20
    while reader.size("events.jsonl") is None and time.monotonic() < deadline:
        time.sleep(0.05)
    assert reader.read("events.jsonl") == b"{}\n"


def test_what_waits_at_the_end_of_a_process_is_written(s3_url):
    """The last resort for who forgot to flush."""
    program = f"""
from torchrelay.contract.storage import open_storage
open_storage({s3_url!r}, {{"flush_s": 1000}}).append("node.log", b"the last line")
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert open_storage(s3_url).read("node.log") == b"the last line"


class TestFirstTouch:
    """What is the user's to mend is said at once, with how to, and without secrets."""

    def text(self, url, options=None, kind=ConfigError):
        started = time.monotonic()
        with pytest.raises(kind) as caught:
            open_storage(url, options or {"retry_s": 100.0, "flush_s": 9.0}).list("")
        assert time.monotonic() - started < 100  # nothing was tried until the time was up
        assert SECRET not in str(caught.value)
        return str(caught.value)

    def test_missing_bucket(self, s3_environment):
        text = self.text("s3://no-such-bucket-here/runs", {"retry_s": 101.0})
        assert "no such bucket" in text
        assert "s3://no-such-bucket-here/runs" in text
        assert s3_environment in text
        with pytest.raises(ConfigError, match="no such bucket"):
            open_storage("s3://no-such-bucket-here/runs", {"retry_s": 102.0}).create("a", b"x")
        with pytest.raises(ConfigError, match="no such bucket"):
            open_storage("s3://no-such-bucket-here/runs", {"retry_s": 103.0}).size("a")

    def test_no_credentials(self, s3_url, monkeypatch):
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        assert "no credentials were found" in self.text(s3_url, {"retry_s": 104.0})

    def test_no_such_profile(self, s3_url):
        assert "no such profile" in self.text(s3_url, {"profile": "nobody"})

    def test_wrong_endpoint(self, s3_url):
        text = self.text(s3_url, {"endpoint_url": "http://127.0.0.1:9", "retry_s": 6.0}, kind=StorageError)
        assert "http://127.0.0.1:9" in text
        assert "check the endpoint" in text

    def test_endpoint_that_is_no_url(self, s3_url):
        assert "endpoint" in self.text(s3_url, {"endpoint_url": "minio"})

    def test_options_that_the_driver_does_not_know(self, s3_url):
        assert "no_such_option" in self.text(s3_url, {"client_kwargs": {"no_such_option": 1}})


def test_options_come_from_the_environment(s3_environment, s3_url, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    monkeypatch.setenv("TORCHRELAY_STORAGE_OPTIONS", f'{{"endpoint_url": "{s3_environment}", "retry_s": 7}}')
    storage = open_storage(s3_url)
    storage.create("file", b"x")
    assert storage.connection.limits.retry_s == 7
    assert storage.connection.endpoint() == s3_environment


def test_a_server_that_ignores_conditions_keeps_no_run(s3_environment, s3_url):
    record = records.RunRecord("r1", "r1", 1.0, "1")
    with FaultyProxy(s3_environment) as proxy:
        proxy.rates = {"deaf": 1.0}
        storage = open_storage(s3_url, {"endpoint_url": proxy.url})
        with pytest.raises(ConfigError, match="made twice"):
            records.create_run(storage, record)
        assert storage.list("") == []
        proxy.rates = {}
        records.create_run(storage, record)
        assert records.read_run(storage) == record
