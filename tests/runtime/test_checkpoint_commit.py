"""When a save becomes a checkpoint, and what is left where it does not: superseded, failed, on a full disk."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from some_saves import PRIVATE, SHARED, manager, save, steps

from torchrelay.contract import layout, manifest, records
from torchrelay.contract.errors import ConfigError, StorageError, SupersededError
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage


def test_leftovers_of_older_writers_are_swept_after_a_commit(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    writers = [Writer(1), Writer(2, 0), Writer(2, 1), Writer(3)]
    for writer in writers:
        storage.create(f"{layout.checkpoint_folder(9, writer)}/rank-00000.json", b"{}")
    save(tmp_path, 10, writer=Writer(2, 1))
    left = os.listdir(tmp_path / "checkpoints")
    assert sorted(left) == [
        "step-000000009-a0002-r01",
        "step-000000009-a0003-r00",
        "step-000000010-a0002-r01",
    ]


def test_a_superseded_writer_commits_nothing(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    storage.create(layout.restart_file(Writer(1)), b"{}")
    saver = manager(tmp_path)
    saver.save(1, SHARED, PRIVATE, {})
    storage.create(layout.restart_file(Writer(1, 1)), b"{}")
    assert records.newest_writer(storage) == Writer(1, 1)
    with pytest.raises(SupersededError, match=r"attempt 1 \(restart 1\) owns the run"):
        saver.save(2, SHARED, PRIVATE, {})
    assert steps(tmp_path) == [1]
    assert not (tmp_path / layout.checkpoint_folder(2, Writer(1))).exists()


def test_a_writer_that_is_superseded_while_it_writes_does_not_commit(tmp_path: Path) -> None:
    class Overtaken(LocalStorage):
        def create(self, path: str, *chunks: Any, **options: Any) -> None:
            super().create(path, *chunks, **options)
            if path.endswith("state.json"):
                super().create(layout.restart_file(Writer(1, 1)), b"{}")

    storage = Overtaken(tmp_path)
    with pytest.raises(SupersededError):
        save(storage, 1)
    assert steps(tmp_path) == []
    assert storage.list(layout.checkpoint_folder(1, Writer(1))) == []


def test_a_writer_that_was_held_up_before_its_commit_leaves_no_checkpoint_without_files(tmp_path: Path) -> None:
    """Held up for so long that the next attempt has begun, saved, and deleted what it takes for a dead one's."""

    class Paused(LocalStorage):
        def create(self, path: str, *chunks: Any, **options: Any) -> None:
            if path == f"{layout.checkpoint_folder(2, Writer(1))}/{layout.MANIFEST}":
                LocalStorage(tmp_path).create(layout.restart_file(Writer(1, 1)), b"{}")
                save(tmp_path, 3, writer=Writer(1, 1))
            super().create(path, *chunks, **options)

    storage = Paused(tmp_path)
    with pytest.raises(SupersededError, match="owns the run"):
        save(storage, 2)
    assert steps(tmp_path) == [3]
    assert [manifest.verify(storage, one.folder) for one in manifest.committed(storage)] == [[]]


def test_a_checkpoint_that_was_whole_when_the_next_attempt_came_stays(tmp_path: Path) -> None:
    class Overtaken(LocalStorage):
        def create(self, path: str, *chunks: Any, **options: Any) -> None:
            super().create(path, *chunks, **options)
            if path.endswith(layout.MANIFEST):
                super().create(layout.restart_file(Writer(1, 1)), b"{}")

    with pytest.raises(SupersededError, match="owns the run"):
        save(Overtaken(tmp_path), 1)
    assert steps(tmp_path) == [1]


def test_a_claimed_attempt_supersedes_before_its_ranks_have_started(tmp_path: Path) -> None:
    LocalStorage(tmp_path).create(layout.attempt_file(2, "attempt"), b"{}")
    with pytest.raises(SupersededError):
        save(tmp_path, 1)


def test_what_cannot_be_saved_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^`optimizer\.state\[0\]\['hook'\]`: a function cannot be saved"):
        manager(tmp_path).save(1, {"optimizer": {"state": {0: {"hook": print}}}}, {}, {})
    assert not (tmp_path / "checkpoints").exists()


class Breaking(LocalStorage):
    """Storage in which the creation of one file fails, either before or after the file is there."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.breaks: str | None = None
        self.after = False

    def create(self, path: str, *chunks: Any, **options: Any) -> None:
        fails = self.breaks is not None and path.endswith(self.breaks)
        if not fails or self.after:
            super().create(path, *chunks, **options)
        if fails:
            raise StorageError(f"cannot write {path}: No space left on device")


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("file", ["rank-00000.safetensors", "rank-00000.json", "state.json", "manifest.json"])
def test_a_save_that_fails_leaves_nothing_and_can_be_tried_again(tmp_path: Path, file: str, after: bool) -> None:
    storage = Breaking(tmp_path)
    saver = manager(storage)
    saver.save(1, SHARED, PRIVATE, {})
    storage.breaks, storage.after = file, after
    with pytest.raises(StorageError, match="No space left"):
        saver.save(2, SHARED, PRIVATE, {})
    assert steps(tmp_path) == [1]
    assert storage.list(layout.checkpoint_folder(2, Writer(1))) == []
    storage.breaks = None
    assert saver.save(2, SHARED, PRIVATE, {}).step == 2
    assert manifest.verify(storage, layout.checkpoint_folder(2, Writer(1))) == []


def test_empty_folders_of_failed_saves_go_with_the_next_commit(tmp_path: Path) -> None:
    storage = Breaking(tmp_path)
    saver = manager(storage)
    storage.breaks = "state.json"
    with pytest.raises(StorageError):
        saver.save(1, SHARED, PRIVATE, {})
    storage.breaks = None
    saver.save(2, SHARED, PRIVATE, {})
    assert os.listdir(tmp_path / "checkpoints") == ["step-000000002-a0001-r00"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB if this user may mount one, else None."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode != 0:
        yield Path("/dev/full")
        return
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_reported_and_loses_nothing(small_disk: Path, tmp_path: Path) -> None:
    storage: LocalStorage = LocalStorage(small_disk)
    if small_disk == Path("/dev/full"):  # no right to mount: the error comes from the storage's own double
        storage = Breaking(tmp_path)
        storage.breaks = "step-000000002-a0001-r00/rank-00000.safetensors"  # type: ignore[attr-defined]
    saver = manager(storage, keep_last=5)
    state = {"model": {"w": torch.arange(400_000.0)}}
    saver.save(1, state, PRIVATE, {})
    saver.save(3, state, PRIVATE, {})
    with pytest.raises(StorageError, match="No space left on device"):
        saver.save(2, {"model": {"w": torch.arange(2_000_000.0)}}, PRIVATE, {})
    found = manager(storage, Writer(2)).restore()
    assert found is not None
    assert found.step == 3
    assert torch.equal(found.shared["model"]["w"], state["model"]["w"])
