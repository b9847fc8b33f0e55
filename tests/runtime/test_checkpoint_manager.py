"""Saving and restoring by a rank that is alone: what comes back, what is damaged, and what is kept."""

import gc
import json
import math
import os
import weakref
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from some_saves import PRIVATE, SHARED, manager, save, steps

from torchrelay.checkpoint import Restored
from torchrelay.checkpoint.dtypes import dtype_of, writable_bytes
from torchrelay.contract import layout, manifest
from torchrelay.contract.errors import CheckpointError, StorageError, TorchrelayError
from torchrelay.contract.layout import Writer
from torchrelay.contract.safetensors_file import DTYPES
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import KeepBest


def test_a_state_comes_back(tmp_path: Path) -> None:
    saved = manager(tmp_path).save(20, SHARED, PRIVATE, {"loss": math.nan}, samples=640)
    assert (saved.step, saved.folder) == (20, "checkpoints/step-000000020-a0001-r00")
    files = [path for path in (tmp_path / saved.folder).iterdir() if path.name != "manifest.json"]
    assert saved.bytes == sum(path.stat().st_size for path in files)
    found = manager(tmp_path, Writer(2)).restore()
    assert found is not None
    assert (found.step, found.folder, found.world_size, found.samples) == (20, saved.folder, 1, 640)
    assert math.isnan(found.metrics["loss"])
    assert found.about == {"torch": "x"}
    assert torch.equal(found.shared["model"]["w"], SHARED["model"]["w"])  # type: ignore[arg-type]
    assert found.shared["model"]["empty"].shape == (0, 3)
    assert found.shared["model"]["scalar"].item() == 7
    assert found.shared["progress"] == SHARED["progress"]
    assert found.private is not None
    assert torch.equal(found.private["rng"], PRIVATE["rng"])  # type: ignore[arg-type]
    assert found.private["python"] == PRIVATE["python"]


def test_any_safetensors_tool_reads_the_tensors_by_name(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, 1)
    found = load_file(tmp_path / folder / "rank-00000.safetensors")
    assert torch.equal(found["model/w"], SHARED["model"]["w"])  # type: ignore[arg-type]
    assert torch.equal(found["rank/00000/rng"], PRIVATE["rng"])  # type: ignore[arg-type]


class Overtaken(LocalStorage):
    """Storage in which the attempt before still commits while this one reads, and deletes what it need not keep."""

    late = False

    def open(self, path: str) -> BinaryIO:
        if not self.late:
            self.late = True
            save(self.root, 20, keep_last=1)
        return super().open(path)


def test_a_checkpoint_that_is_deleted_while_it_is_read_is_not_damaged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 10, keep_last=1)
    found = manager(Overtaken(tmp_path), Writer(2)).restore()
    assert found is not None
    assert found.step == 20
    assert "was deleted while it was read" in caplog.text
    assert os.listdir(tmp_path / "checkpoints") == ["step-000000020-a0001-r00"]


@pytest.mark.parametrize("step", [-1, 10**12])
def test_a_step_whose_folder_would_not_be_found_is_refused(tmp_path: Path, step: int) -> None:
    """Tokens can be counted up to there. The checkpoint would be in no list, and the run would start anew."""
    with pytest.raises(ValueError, match=f"from 0 to 999999999999, not {step}"):
        save(tmp_path, step)
    assert not (tmp_path / "checkpoints").exists()
    save(tmp_path, 10**12 - 1)
    assert steps(tmp_path) == [10**12 - 1]


def test_a_lack_of_memory_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an older checkpoint would be taken in silence, and the good one kept aside as damaged."""
    save(tmp_path, 10, 20)
    later = manager(tmp_path, Writer(2))

    def empty(*_given: Any, **_named: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory\nand where")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "empty", empty)
        with pytest.raises(TorchrelayError, match=r"^there is not enough memory on this machine for 'model/") as raised:
            later.restore()
    assert not isinstance(raised.value, CheckpointError)
    assert not any(manifest.DAMAGED in files for files in LocalStorage(tmp_path).contents("checkpoints").values())
    found = later.restore()
    assert found is not None
    assert found.step == 20


def test_a_run_without_checkpoints_restores_nothing(tmp_path: Path) -> None:
    assert manager(tmp_path).restore() is None


def test_a_step_can_be_asked_for(tmp_path: Path) -> None:
    save(tmp_path, 10, 20, 30)
    found = manager(tmp_path, Writer(2)).restore(20)
    assert found is not None
    assert found.step == 20
    with pytest.raises(CheckpointError, match=r"no checkpoint of step 25 .*; steps there: 10, 20, 30"):
        manager(tmp_path, Writer(2)).restore(25)


def test_a_step_is_saved_once(tmp_path: Path) -> None:
    saver = manager(tmp_path)
    first = saver.save(1, SHARED, PRIVATE, {})
    assert saver.save(1, {}, {}, {}) is first
    with pytest.raises(CheckpointError, match="committed already"):
        manager(tmp_path).save(1, {}, {}, {})
    assert manifest.verify(LocalStorage(tmp_path), first.folder) == []


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 4), max_size=3)), max_size=6),
    st.randoms(use_true_random=False),
)
def test_tensors_of_every_dtype_come_back(tmp_path_factory: Any, made: list[Any], random: Any) -> None:
    state = {}
    for index, (name, shape) in enumerate(made):
        tensor = torch.empty(shape, dtype=dtype_of(name))
        memory = writable_bytes(tensor)
        memory[:] = random.randbytes(len(memory)) if name != "BOOL" else bytes(len(memory))
        state[str(index)] = tensor.T if len(shape) == 2 else tensor
    root = tmp_path_factory.mktemp("dtypes")
    manager(root).save(1, {"shared": state}, state, {})
    found = manager(root, Writer(2)).restore()
    assert found is not None
    assert found.private is not None
    for key, tensor in state.items():
        for other in (found.shared["shared"][key], found.private[key]):
            assert (other.dtype, other.shape) == (tensor.dtype, tensor.shape)
            assert bytes(writable_bytes(other)) == bytes(writable_bytes(tensor.contiguous()))


def test_a_single_element_of_a_row_comes_back_into_its_place(tmp_path: Path) -> None:
    """It is contiguous whatever its stride."""
    own, later = torch.arange(6.0).reshape(3, 2)[:1, 1], torch.zeros(3, 2)
    manager(tmp_path).save(1, {"model": {"w": own}}, {}, {})
    found = manager(tmp_path, Writer(2)).restore(into={"model": {"w": later[1:2, 1]}})
    assert found is not None
    assert found.shared["model"]["w"].tolist() == [1.0]
    assert later.flatten().tolist() == [0, 0, 0, 1, 0, 0]


def test_every_damage_of_the_newest_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 1)
    (newest,) = save(tmp_path, 2)
    for file in sorted((tmp_path / newest).iterdir()):
        whole = file.read_bytes()
        for at in range(0, len(whole), 41):
            damaged = whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]
            _assert_passed_over(tmp_path, file, damaged, caplog)
        for damaged in (b"", whole[:-1], whole + b" ", None):
            _assert_passed_over(tmp_path, file, damaged, caplog)
        file.write_bytes(whole)
    (tmp_path / newest / manifest.DAMAGED).unlink()
    found = manager(tmp_path).restore()
    assert found is not None
    assert found.step == 2


def _assert_passed_over(root: Path, file: Path, content: bytes | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    found = manager(root).restore()
    assert found is not None
    assert found.step == 1
    gone = content is None and file.name == layout.MANIFEST  # then it is no checkpoint, and nothing is amiss
    assert gone or file.name in caplog.text
    assert gone or file.parent.name in caplog.text


def test_when_all_are_damaged_the_run_does_not_start_over(tmp_path: Path) -> None:
    for folder in save(tmp_path, 1, 2):
        (tmp_path / folder / "state.json").write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=r"(?s)step-000000002.*step-000000001.*prune --damaged"):
        manager(tmp_path, Writer(2)).restore()


def test_a_failing_storage_is_not_taken_for_damage(tmp_path: Path) -> None:
    save(tmp_path, 1, 2)

    class Failing(LocalStorage):
        def open(self, path: str) -> Any:
            raise OSError(5, "Input/output error")

    with pytest.raises(StorageError, match="Input/output error"):
        manager(Failing(tmp_path), Writer(2)).restore()


def test_retention_keeps_the_last_and_the_best(tmp_path: Path) -> None:
    saver = manager(tmp_path, keep_last=2, keep_best=KeepBest("loss", "min"))
    for step, loss in enumerate([3.0, 1.0, 2.0, 4.0, 5.0, math.nan], 1):
        saver.save(step, SHARED, PRIVATE, {"loss": loss})
    assert steps(tmp_path) == [6, 5, 2]
    assert len(os.listdir(tmp_path / "checkpoints")) == 3


def test_a_damaged_checkpoint_is_neither_counted_nor_deleted(tmp_path: Path) -> None:
    one, two, three = save(tmp_path, 1, 2, 3)
    (tmp_path / two / "state.json").write_bytes(b"")  # seen by its size
    last = tmp_path / three / "rank-00000.safetensors"
    last.write_bytes(last.read_bytes()[:-1] + b"x")  # seen only by reading
    later = manager(tmp_path, Writer(2), keep_last=1)
    found = later.restore()
    assert found is not None
    assert found.folder == one
    later.save(4, SHARED, PRIVATE, {})
    assert steps(tmp_path) == [4, 3, 2]
    assert "xxh3-128" in json.loads((tmp_path / three / manifest.DAMAGED).read_text())["problem"]


def test_restored_is_usable_without_the_files(tmp_path: Path) -> None:
    (folder,) = save(tmp_path, 1)
    found: Restored | None = manager(tmp_path, Writer(2)).restore()
    assert found is not None
    LocalStorage(tmp_path).delete(folder)
    found.shared["model"]["w"].add_(1)
    assert found.shared["model"]["w"][0, 0] == 1


def test_what_was_restored_goes_with_its_last_reference(tmp_path: Path) -> None:
    """Were a state in a ring of references, its memory would stay until Python looks for rings."""
    save(tmp_path, 1)
    gc.disable()
    try:
        found = manager(tmp_path, Writer(2)).restore()
        assert found is not None
        tensor = weakref.ref(found.shared["model"]["w"])
        del found
        assert tensor() is None
    finally:
        gc.enable()
