"""Faults that torch.distributed.checkpoint lets through, each tried on both; docs/checkpoint-faults.md has the table.

The tests of the other side say what it does today. If one of them fails, it got better, and the table is to be changed.
"""

import json
import os
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import xxhash
from alone import Alone

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract import layout, manifest, strict_json
from torchrelay.contract.errors import CheckpointError, ConfigError, StorageError
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch.distributed.checkpoint, without a process group


def weights(value: float) -> torch.Tensor:
    return torch.full((1000,), value)


def save(root: Path | LocalStorage, step: int, value: float, writer: Writer | None = None) -> Path:
    storage = root if isinstance(root, LocalStorage) else LocalStorage(root)
    own = CheckpointManager(storage, writer or Writer(1), Alone(), Checkpoint(), {})
    return storage.path(own.begin(step, {"model": {"w": weights(value)}}, {}, {}).result().folder)


def restore(root: Path) -> Any:
    found = CheckpointManager(LocalStorage(root), Writer(9), Alone(), Checkpoint(), {}).restore()
    assert found is not None
    return found.step, found.shared["model"]["w"]


def dcp_save(folder: Path, value: float, name: str = "w") -> None:
    dcp.save({name: weights(value)}, checkpoint_id=folder)


def dcp_load(folder: Path, name: str = "w") -> torch.Tensor:
    state = {name: torch.zeros(1000)}
    dcp.load(state, checkpoint_id=folder)
    return state[name]


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 64
    path.write_bytes(content)


def test_a_checkpoint_of_a_newer_release_is_neither_passed_over_nor_marked(tmp_path: Path) -> None:
    save(tmp_path, 10, 1.0)
    folder = save(tmp_path, 20, 2.0)
    path = folder / "manifest.json"
    fields = {key: value for key, value in json.loads(path.read_bytes()).items() if key != "checksum"} | {"version": 2}
    fields["checksum"] = xxhash.xxh3_128_hexdigest(strict_json.canonical(fields))
    path.write_bytes(strict_json.canonical(fields) + b"\n")
    there = set(folder.iterdir())
    with pytest.raises(ConfigError, match="go on with that release"):
        restore(tmp_path)
    assert set(folder.iterdir()) == there


def test_one_flipped_bit(tmp_path: Path) -> None:
    save(tmp_path / "ours", 1, 1.0)
    flip(save(tmp_path / "ours", 2, 2.0) / "rank-00000.safetensors", -400)
    step, found = restore(tmp_path / "ours")
    assert step == 1
    assert torch.equal(found, weights(1.0))


def test_one_flipped_bit_there(tmp_path: Path) -> None:
    dcp_save(tmp_path, 2.0)
    (data,) = tmp_path.glob("*.distcp")
    place = data.read_bytes().index(weights(2.0).numpy().tobytes()) + 2000
    flip(data, place)
    assert not torch.equal(dcp_load(tmp_path), weights(2.0))  # loads a wrong number, without a word


class Touched:
    """What a pickle can do."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_code_in_the_metadata(tmp_path: Path) -> None:
    save(tmp_path / "ours", 1, 1.0)
    folder = save(tmp_path / "ours", 2, 2.0)
    for name in ("manifest.json", "state.json", "rank-00000.json", "rank-00000.safetensors"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(pickle.dumps(Touched(tmp_path / "ran")))
        assert restore(tmp_path / "ours")[0] == 1
        (folder / name).write_bytes(whole)
    assert not (tmp_path / "ran").exists()


def test_code_in_the_metadata_there(tmp_path: Path) -> None:
    dcp_save(tmp_path / "theirs", 2.0)
    (tmp_path / "theirs" / ".metadata").write_bytes(pickle.dumps(Touched(tmp_path / "ran")))
    with pytest.raises(BaseException):  # noqa: B017, PT011  # some error; by then the code has run
        dcp_load(tmp_path / "theirs")
    assert (tmp_path / "ran").exists()


class Dying(LocalStorage):
    """Storage of a process that is gone after it has written its tensors."""

    def create(self, path: str, *chunks: Any, **options: Any) -> None:
        if path.endswith((layout.STATE, layout.MANIFEST)):
            raise KeyboardInterrupt
        super().create(path, *chunks, **options)

    def delete(self, path: str) -> None:
        raise KeyboardInterrupt


def test_a_crash_while_the_same_step_is_saved_again(tmp_path: Path) -> None:
    """A resumed attempt saves step 1 once more and dies: the first one's checkpoint is as it was."""
    save(tmp_path, 1, 1.0)
    with pytest.raises(KeyboardInterrupt):
        save(Dying(tmp_path), 1, 2.0, Writer(2))
    step, found = restore(tmp_path)
    assert step == 1
    assert torch.equal(found, weights(1.0))


def test_a_crash_while_overwriting_there(tmp_path: Path) -> None:
    """Its files have the same names in each save: new data comes under the old metadata, which fits it."""
    dcp_save(tmp_path / "x", 1.0)
    dcp_save(tmp_path / "new", 2.0)
    (data,) = (tmp_path / "new").glob("*.distcp")
    shutil.copy(data, tmp_path / "x" / data.name)  # as far as the second save came before the crash
    assert torch.equal(dcp_load(tmp_path / "x"), weights(2.0))  # the old metadata says that it is whole


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_disk_that_fills_up_in_a_writer_thread_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The thread dies, the save reports success, and what it should have written is not there."""
    write = dcp.filesystem._write_item

    def fills(*args: Any, **named: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            raise OSError(28, "No space left on device")
        return write(*args, **named)

    monkeypatch.setattr(dcp.filesystem, "_write_item", fills)
    state = {f"w{n}": weights(2.0) for n in range(4)}
    dcp.save(state, storage_writer=dcp.FileSystemWriter(tmp_path, thread_count=2))
    loaded = {name: torch.zeros(1000) for name in state}
    with pytest.raises(BaseException):  # noqa: B017, PT011
        dcp.load(loaded, checkpoint_id=tmp_path)


class Full(LocalStorage):
    """Storage that fills up in the middle of the tensors, and takes what it has for a file, as a stream would."""

    def create(self, path: str, *chunks: Any, **options: Any) -> None:
        if path.endswith(".safetensors") and "step-000000002" in path:
            whole = b"".join(bytes(chunk) for chunk in chunks)
            super().create(path, whole[: len(whole) // 2])
            raise StorageError("No space left on device")
        super().create(path, *chunks, **options)


def test_a_disk_that_fills_up_or_an_upload_that_is_cut(tmp_path: Path) -> None:
    save(tmp_path, 1, 1.0)
    with pytest.raises(StorageError, match="No space left on device"):
        save(Full(tmp_path), 2, 2.0)
    assert [one.step for one in manifest.committed(LocalStorage(tmp_path))] == [1]
    assert not (tmp_path / layout.checkpoint_folder(2, Writer(1)) / "rank-00000.safetensors").exists()
    assert torch.equal(restore(tmp_path)[1], weights(1.0))


def test_a_truncated_file_of_a_committed_checkpoint(tmp_path: Path) -> None:
    save(tmp_path, 1, 1.0)
    path = save(tmp_path, 2, 2.0) / "rank-00000.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    assert restore(tmp_path)[0] == 1
    with pytest.raises(CheckpointError, match=r"has 4012 bytes, expected 4112"):
        manifest.digest(LocalStorage(tmp_path), "checkpoints/" + path.parent.name)


def test_a_truncated_file_there(tmp_path: Path) -> None:
    """It is noticed, by an error of the deserialiser that names neither file nor cause; nothing older is tried."""
    dcp_save(tmp_path, 2.0)
    (data,) = tmp_path.glob("*.distcp")
    data.write_bytes(data.read_bytes()[:1500])
    with pytest.raises(dcp.api.CheckpointException) as raised:
        dcp_load(tmp_path)
    assert data.name not in str(raised.value)
