"""What a retention policy keeps, and what is swept."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.contract import manifest_format, retention
from torchrelay.contract.errors import StorageError
from torchrelay.contract.layout import Writer, checkpoint_folder
from torchrelay.contract.manifest import DAMAGED, Committed, FileEntry, Manifest
from torchrelay.contract.retention import Candidate, Retention, superfluous
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint, KeepBest
from torchrelay.contract.units import Interval


def candidates(*losses: float) -> list[Candidate]:
    """Checkpoints of steps 1, 2, ... with these losses, the newest first."""
    made = [Candidate(Committed(f"c{n}", n, Writer(1)), {"loss": loss}) for n, loss in enumerate(losses, 1)]
    return made[::-1]


@pytest.mark.parametrize(
    ("mode", "losses", "gone"),
    [
        ("min", (3.0, 1.0, 2.0, 4.0), [3, 1]),
        ("max", (3.0, 1.0, 2.0, 4.0), [3, 2, 1]),
        ("min", (1.0, 1.0, 1.0, 2.0), [2, 1]),
        ("min", (float("nan"), float("-inf"), 5.0, 6.0), [2, 1]),
    ],
    ids=["the smallest", "the largest is the newest", "the newest of equals", "not finite is never best"],
)
def test_the_best_is_kept_beside_the_last(mode: str, losses: tuple[float, ...], gone: list[int]) -> None:
    keep = KeepBest("loss", mode)  # type: ignore[arg-type]
    assert [one.step for one in superfluous(candidates(*losses), 1, keep)] == gone


@given(st.lists(st.floats()), st.integers(0, 10))
def test_the_newest_are_never_superfluous(losses: list[float], keep_last: int) -> None:
    found = candidates(*losses)
    gone = superfluous(found, keep_last, None)
    kept = [one.checkpoint for one in found if one.checkpoint not in gone]
    assert kept == [one.checkpoint for one in found[: max(1, keep_last)]]


def dated(*made: tuple[int, float]) -> list[Candidate]:
    """Checkpoints of these steps and times, given the oldest first."""
    return [Candidate(Committed(f"c{step}", step, Writer(1)), {}, at) for step, at in made][::-1]


@pytest.mark.parametrize(
    ("every", "kept"),
    [("100 steps", [110, 240, 320]), ("10s", [30, 240, 320]), ("200 steps or 1000s", [30, 240])],
)
def test_milestones_are_kept_for_ever(every: str, kept: list[int]) -> None:
    found = dated((30, 0.0), (90, 5.0), (110, 9.0), (130, 9.5), (240, 12.0), (250, 13.0), (320, 25.0))
    assert [one.checkpoint.step for one in retention.milestones(found, Interval.parse(every))] == kept
    gone = superfluous(found, 1, None, Interval.parse(every))
    assert sorted({one.checkpoint.step for one in found} - {one.step for one in gone}) == sorted({*kept, 320})


@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0.0, 9.0)), min_size=1), st.integers(1, 30), st.integers(1, 3))
def test_what_is_kept_as_a_milestone_stays_one(gaps: list[tuple[int, float]], steps: int, keep_last: int) -> None:
    every, step, now, left, ever = Interval(steps, 20.0), 0, 0.0, list[Candidate](), set[int]()
    for more_steps, more_s in gaps:
        step, now = step + more_steps, now + more_s
        left = [*dated((step, now)), *left]
        gone = superfluous(left, keep_last, None, every)
        left = [one for one in left if one.checkpoint not in gone]
        ever |= {one.checkpoint.step for one in retention.milestones(left, every)}
    assert ever <= {one.checkpoint.step for one in left}


def test_only_older_writers_leftovers_are_swept(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    writers = [Writer(1, 0), Writer(1, 1), Writer(2, 0), Writer(2, 1), Writer(3, 0)]
    for writer in writers:
        storage.create(f"{checkpoint_folder(5, writer)}/rank-00000.json", b"{}")
    storage.create("checkpoints/mine/notes.txt", b"keep me")
    gone = Retention(storage, Writer(2, 0), Checkpoint()).apply()
    assert gone == [checkpoint_folder(5, writer) for writer in writers[:2]]
    assert len(storage.list("checkpoints")) == 4


def test_a_damaged_manifest_is_kept_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    storage = LocalStorage(tmp_path)
    storage.create(f"{checkpoint_folder(5, Writer(1))}/manifest.json", b"{}")
    assert Retention(storage, Writer(2), Checkpoint(keep_last=1)).apply() == []
    assert "aside" in caplog.text


@pytest.mark.parametrize("marked", [False, True])
def test_a_manifest_without_any_file_is_swept_when_its_writer_is_dead(tmp_path: Path, marked: bool) -> None:
    """It came too late: what it names had been swept, and its writer was killed before it could look back."""
    storage = LocalStorage(tmp_path)
    folder = checkpoint(storage, 1)
    for name in ("state.json", "rank-00000.json"):
        storage.delete(f"{folder}/{name}")
        if marked:
            storage.replace(f"{folder}/{DAMAGED}", b"")
        expected = [folder] if name == "rank-00000.json" else []  # with anything left it stays, as a damaged one
        assert Retention(storage, Writer(2), Checkpoint()).to_delete() == expected
    assert Retention(storage, Writer(1), Checkpoint()).to_delete() == []
    assert Retention(storage, Writer(2), Checkpoint()).apply() == [folder]
    assert storage.list("checkpoints") == []


class Counting(LocalStorage):
    """Keeps the paths of what is read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reads: list[str] = []

    def read(self, path: str) -> bytes:
        self.reads.append(path)
        return super().read(path)


def checkpoint(storage: LocalStorage, step: int) -> str:
    """A checkpoint without tensors."""
    folder, names = checkpoint_folder(step, Writer(1)), ("state.json", "rank-00000.json")
    for name in names:
        storage.create(f"{folder}/{name}", b"{}")
    made = Manifest(step, Writer(1), 1, 0.0, {name: FileEntry(2, "0" * 32) for name in names}, {})
    storage.create(f"{folder}/manifest.json", manifest_format.dump(made))
    return folder


def test_a_manifest_is_read_once_and_a_size_each_time(tmp_path: Path) -> None:
    storage = Counting(tmp_path)
    sweeping = Retention(storage, Writer(1), Checkpoint(keep_last=3))
    for step in (1, 2, 3):
        checkpoint(storage, step)
        assert sweeping.apply() == []
    assert storage.reads == [f"{checkpoint_folder(step, Writer(1))}/manifest.json" for step in (1, 2, 3)]
    storage.path(f"{checkpoint_folder(2, Writer(1))}/state.json").write_bytes(b"{ }")
    storage.path(f"{checkpoint_folder(3, Writer(1))}/manifest.json").write_bytes(b"{}")
    checkpoint(storage, 4)
    assert sweeping.apply() == []  # two that are damaged do not count
    checkpoint(storage, 5)
    checkpoint(storage, 6)
    assert sweeping.apply() == [checkpoint_folder(1, Writer(1))]


class Stuck(LocalStorage):
    """Keeps one checkpoint, as a file system that somebody else owns."""

    def delete(self, path: str) -> None:
        if "step-000000004" in path:
            raise StorageError("not permitted")
        super().delete(path)


def test_one_that_cannot_be_deleted_does_not_keep_the_others(tmp_path: Path) -> None:
    """Else it would come first each time, and the disk would fill up behind it."""
    storage = Stuck(tmp_path)
    for step in range(1, 6):
        checkpoint(storage, step)
    sweeping = Retention(storage, Writer(1), Checkpoint(keep_last=1))
    for _ in range(2):  # after two commits
        with pytest.raises(StorageError, match="not permitted"):
            sweeping.apply()
    assert storage.list("checkpoints") == ["step-000000004-a0001-r00", "step-000000005-a0001-r00"]


def test_of_a_checkpoint_that_lies_elsewhere_only_the_link_is_deleted(tmp_path: Path) -> None:
    storage, elsewhere = LocalStorage(tmp_path / "run"), LocalStorage(tmp_path / "other")
    folder = checkpoint(elsewhere, 1)
    storage.path("checkpoints").mkdir(parents=True)
    storage.path(folder).symlink_to(elsewhere.path(folder))
    checkpoint(storage, 2)
    assert Retention(storage, Writer(1), Checkpoint(keep_last=1)).apply() == [folder]
    assert storage.list("checkpoints") == [checkpoint_folder(2, Writer(1)).rpartition("/")[2]]
    assert elsewhere.list(folder) == ["manifest.json", "rank-00000.json", "state.json"]
