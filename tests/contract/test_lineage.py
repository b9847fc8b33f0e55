"""Which checkpoints a restore may take after a run was sent back to an earlier step."""

from pathlib import Path
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from torchrelay.contract import layout, manifest, records
from torchrelay.contract.layout import Writer
from torchrelay.contract.lineage import Fork, in_line
from torchrelay.contract.records import AttemptRecord
from torchrelay.contract.storage import LocalStorage


class Saved(NamedTuple):
    step: int
    writer: Writer


def saved(attempt: int, *steps: int, restart: int = 0) -> list[Saved]:
    return [Saved(step, Writer(attempt, restart)) for step in steps]


def steps(checkpoints: list[Saved]) -> list[tuple[int, int]]:
    return [(one.step, one.writer.attempt) for one in checkpoints]


def test_without_forks_the_newest_writer_comes_first() -> None:
    found = saved(1, 100, 200, 300) + saved(2, 200, 250)
    assert steps(in_line(found, [])) == [(250, 2), (200, 2), (300, 1), (200, 1), (100, 1)]


def test_a_fork_leaves_later_steps_of_older_attempts_behind() -> None:
    found = saved(1, 100, 200, 300) + saved(2, 400, 500)
    assert steps(in_line(found, [Fork(3, 200)])) == [(200, 1), (100, 1)]


def test_the_step_of_the_fork_comes_before_what_newer_attempts_saved_at_smaller_steps() -> None:
    found = saved(1, 100, 500) + saved(2, 300, 400)
    assert steps(in_line(found, [Fork(3, 500)])) == [(500, 1), (400, 2), (300, 2), (100, 1)]


def test_after_a_fork_its_own_checkpoints_come_first_also_for_later_attempts() -> None:
    found = saved(1, 100, 200, 300) + saved(2, 150) + saved(3, 160)
    assert steps(in_line(found, [Fork(2, 100)])) == [(160, 3), (150, 2), (100, 1)]


def test_forks_of_forks() -> None:
    found = saved(1, 100, 200, 300) + saved(2, 150, 250) + saved(3, 175)
    assert steps(in_line(found, [Fork(3, 150), Fork(2, 100)])) == [(175, 3), (150, 2), (100, 1)]


CHECKPOINTS = st.lists(
    st.builds(Saved, st.integers(0, 9), st.builds(Writer, st.integers(1, 6), st.integers(0, 1))), unique=True
)
FORKS = st.lists(st.builds(Fork, st.integers(1, 6), st.integers(0, 9)), unique_by=lambda fork: fork.attempt)


@given(CHECKPOINTS, FORKS)
def test_no_checkpoint_comes_twice_and_none_that_a_fork_left_behind(found: list[Saved], forks: list[Fork]) -> None:
    line = in_line(found, sorted(forks, key=lambda fork: fork.attempt, reverse=True))
    assert len(set(line)) == len(line)
    left_behind = {one for one in found for fork in forks if one.writer.attempt < fork.attempt and one.step > fork.step}
    assert set(line) == set(found) - left_behind


def test_the_manifest_module_follows_the_attempt_records(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    for step, attempt in ((100, 1), (200, 1)):
        storage.create(f"{layout.checkpoint_folder(step, Writer(attempt))}/{layout.MANIFEST}", b"{}")
    newest = manifest.newest_committed(storage)
    assert newest is not None
    assert newest.step == 200
    record = AttemptRecord(2, "local", 0.0, "host", "/", resume_from=100)
    storage.create(layout.attempt_file(2, "attempt"), records.dump(record))
    assert [one.step for one in manifest.committed(storage)] == [100]
