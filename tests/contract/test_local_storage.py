import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from torchrelay.contract import storage as storage_module
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.storage import LocalStorage, open_storage


@pytest.fixture
def storage(tmp_path: Path) -> LocalStorage:
    return LocalStorage(tmp_path / "run")


def test_create_makes_folders_and_refuses_a_name_that_is_taken(storage: LocalStorage) -> None:
    storage.create("a/b/c.json", b"one", memoryview(b" two"))
    with pytest.raises(FileExistsError):
        storage.create("a/b/c.json", b"other")
    assert storage.read("a/b/c.json") == b"one two"
    assert storage.list("a/b") == ["c.json"]


def test_every_byte_is_seen_once_and_before_it_is_written(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, seen, write = os.urandom(2500), bytearray(), os.write

    def some(descriptor: int, piece: memoryview) -> int:  # as a file system may
        assert bytes(piece) in bytes(seen)
        return write(descriptor, piece[:300])

    monkeypatch.setattr("torchrelay.contract.storage._PIECE_BYTES", 1000)
    monkeypatch.setattr(os, "write", some)
    storage.create("file", b"head", b"", memoryview(data), seen=seen.extend)
    assert storage.read("file") == seen == b"head" + data


def test_of_many_creators_exactly_one_wins(storage: LocalStorage) -> None:
    winners: list[int] = []

    def create(number: int) -> None:
        try:
            storage.create("claim", str(number).encode())
            winners.append(number)
        except FileExistsError:
            pass

    threads = [threading.Thread(target=create, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert storage.read("claim") == str(winners[0]).encode()
    assert len(winners) == 1


def test_a_link_whose_answer_was_lost_is_a_success(storage: LocalStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS sends the request again, and finds the name taken, by itself."""
    link = os.link

    def sent_twice(*given: Path) -> None:
        link(*given)
        link(*given)

    monkeypatch.setattr(os, "link", sent_twice)
    storage.create("claim", b"mine")
    assert storage.read("claim") == b"mine"
    with pytest.raises(FileExistsError):
        storage.create("claim", b"mine")
    monkeypatch.setattr(Path, "exists", lambda _: False)  # and where the name is taken after the first look
    with pytest.raises(FileExistsError):
        storage.create("claim", b"mine")
    assert os.listdir(storage.root) == ["claim"]


def test_a_file_system_without_hard_links_is_refused_with_the_way_out(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Path) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(
        StorageError, match=r"Operation not permitted; there are no hard links .* such as s3:// or gs://"
    ):
        storage.create("claim", b"mine")
    assert os.listdir(storage.root) == []


def test_replace_and_append(storage: LocalStorage) -> None:
    storage.replace("h", b"old")
    storage.replace("h", b"new")
    storage.append("log", b"a\n")
    storage.append("log", b"b\n")
    assert (storage.read("h"), storage.read("log")) == (b"new", b"a\nb\n")


def test_missing_things_are_missing(storage: LocalStorage) -> None:
    assert storage.size("x") is None
    assert storage.list("x") == []
    storage.delete("x")
    with pytest.raises(FileNotFoundError):
        storage.read("x")


def test_contents_are_those_of_folders_wherever_they_are(storage: LocalStorage, tmp_path: Path) -> None:
    storage.create("all/a/one", b"1")
    storage.create("all/a/two", b"22")
    storage.create("all/a/deep/three", b"333")
    storage.create("all/four", b"4444")
    storage.path("all/a/.hidden").touch()
    LocalStorage(tmp_path / "elsewhere").create("five", b"55555")
    storage.path("all/b").symlink_to(tmp_path / "elsewhere")
    storage.path("all/b/gone").symlink_to("nowhere")
    assert storage.contents("all") == {"a": {"one": 1, "two": 2}, "b": {"five": 5}}
    assert storage.contents("missing") == {}


def test_delete_takes_a_whole_folder(storage: LocalStorage) -> None:
    storage.create("f/one", b"1")
    storage.delete("f")
    assert storage.list("") == []


def test_what_is_deleted_is_gone_for_good_when_that_returns(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A manifest that came back after a power cut would name files that are gone."""
    storage.create("f/one", b"1")
    synced: list[tuple[Path, bool]] = []
    monkeypatch.setattr(
        storage_module, "sync_folder", lambda folder: synced.append((folder, storage.path("f/one").exists()))
    )
    storage.delete("f/one")
    assert synced == [(storage.path("f"), False)]
    storage.delete("f/one")
    storage.delete("nothing/here")


def test_delete_tries_again_when_something_comes_in_between(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    rmtree = shutil.rmtree
    late = ["f/late", "f/later"]

    def with_a_writer(folder: Path) -> None:
        rmtree(folder)
        if late:
            storage.create(late.pop(), b"")
            raise OSError(errno.ENOTEMPTY, "Directory not empty", str(folder))

    storage.create("f/one", b"1")
    monkeypatch.setattr(shutil, "rmtree", with_a_writer)
    storage.delete("f")
    assert storage.list("") == []


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "a/\0"])
def test_paths_cannot_climb_out(storage: LocalStorage, path: str) -> None:
    with pytest.raises(StorageError, match="refusing"):
        storage.create(path, b"")


def test_a_part_of_the_path_that_is_a_file_is_explained(storage: LocalStorage) -> None:
    storage.create("file", b"")
    with pytest.raises(StorageError, match="--storage"):
        LocalStorage(storage.root / "file").create("a/b", b"")


def test_urls_of_local_folders_and_of_unknown_protocols(tmp_path: Path) -> None:
    assert open_storage(f"file://{tmp_path}").url == str(tmp_path)
    with pytest.raises(ConfigError, match="nonsense"):
        open_storage("nonsense://x")


STUCK_BEFORE_DURABLE = """
import os, sys, time
from pathlib import Path
from torchrelay.contract.storage import LocalStorage

def stuck(descriptor):
    print("written", flush=True)
    time.sleep(60)

os.fsync = stuck
LocalStorage(Path(sys.argv[1])).create("big", bytes(1 << 20))
"""


def test_a_writer_killed_before_its_data_is_durable_leaves_no_object(storage: LocalStorage) -> None:
    storage.root.mkdir()
    writer = subprocess.Popen(
        [sys.executable, "-c", STUCK_BEFORE_DURABLE, str(storage.root)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "written\n"
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    writer.stdout.close()
    assert storage.list("") == []
    assert storage.size("big") is None
    storage.create("big", b"by the next")


def test_a_folder_that_cannot_be_made_is_a_matter_of_storage():
    with pytest.raises(StorageError, match=r"cannot make the folder /proc/nothing: .*--storage"):
        LocalStorage(Path("/proc/nothing/runs")).create("file", b"x")


def test_a_folder_that_goes_before_the_file_is_there_is_a_matter_of_storage(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage_module, "make_durable_folder", lambda _folder: None)
    for write in (storage.create, storage.replace, storage.append):
        with pytest.raises(StorageError, match=r"cannot write .*/a/file: its folder is gone; .*--storage"):
            write("a/file", b"x")


def test_two_may_delete_a_folder_at_once(storage: LocalStorage) -> None:
    for _ in range(20):
        for index in range(40):
            storage.path(f"a/{index % 4}").mkdir(parents=True, exist_ok=True)
            storage.path(f"a/{index % 4}/{index}").touch()
        failed: list[BaseException] = []
        threads = [threading.Thread(target=_deleting, args=(storage, failed)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        assert storage.list("") == []


def _deleting(storage: LocalStorage, failed: list[BaseException]) -> None:
    try:
        storage.delete("a")
    except BaseException as error:  # noqa: BLE001  # shown by the test
        failed.append(error)
