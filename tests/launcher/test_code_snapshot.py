"""A copy of the code that edits do not reach, in a folder where relative paths lead where they led."""

import subprocess
from pathlib import Path

import pytest

from torchrelay_launch import code_snapshot


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A git working tree with a tracked, a new and an ignored file, and an ignored folder."""
    root = tmp_path / "a project"
    (root / "pkg").mkdir(parents=True)
    (root / "data").mkdir()
    (root / ".gitignore").write_text("data\n*.log\n")
    (root / "pkg" / "model.py").write_text("old")
    (root / "pkg" / "train.log").write_text("log")
    (root / "data" / "x.bin").write_text("x")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run(["git", "-C", str(root), "add", "pkg/model.py"], check=True)
    (root / "new.py").write_text("new")
    return root


def test_edits_do_not_reach_the_copy(project: Path, tmp_path: Path) -> None:
    target = tmp_path / "run" / "code"
    taken = code_snapshot.take(project, target)
    (project / "pkg" / "model.py").write_text("edited")
    (project / "new.py").unlink()
    assert (target / "pkg" / "model.py").read_text() == "old"
    assert (target / "new.py").read_text() == "new"
    assert taken.files == 3
    assert "copied 3 files" in str(taken)


def test_what_git_ignores_is_linked(project: Path, tmp_path: Path) -> None:
    code_snapshot.take(project, tmp_path / "code")
    assert (tmp_path / "code" / "data").is_symlink()
    assert (tmp_path / "code" / "data" / "x.bin").read_text() == "x"
    assert (tmp_path / "code" / "pkg" / "train.log").is_symlink()


def test_a_large_file_is_linked_and_named(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code_snapshot, "LARGEST_FILE_BYTES", 100)
    (project / "weights.bin").write_bytes(b"w" * 101)
    taken = code_snapshot.take(project, tmp_path / "code")
    assert taken.linked == ("weights.bin",)
    assert (tmp_path / "code" / "weights.bin").is_symlink()
    assert "weights.bin" in str(taken)


def test_a_folder_inside_the_working_tree_is_copied_alone(project: Path, tmp_path: Path) -> None:
    assert code_snapshot.take(project / "pkg", tmp_path / "code").files == 1
    assert (tmp_path / "code" / "model.py").read_text() == "old"


def test_without_git_the_folder_itself_is_used(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()
    taken = code_snapshot.take(tmp_path / "plain", tmp_path / "code")
    assert taken.live
    assert (tmp_path / "code").resolve() == tmp_path / "plain"


def test_the_runs_of_a_sweep_share_one_copy(project: Path, tmp_path: Path) -> None:
    first = code_snapshot.share(project, tmp_path / "sweep" / "code", tmp_path / "sweep-001" / "code" / "a0001")
    (project / "pkg" / "model.py").write_text("edited")
    second = code_snapshot.share(project, tmp_path / "sweep" / "code", tmp_path / "sweep-002" / "code" / "a0001")
    assert first.startswith("copied ")
    assert second == ""
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("sweep", "sweep-001", "sweep-002"):
        (tmp_path / name).rename(moved / name)
    for number in (1, 2):
        assert (moved / f"sweep-00{number}" / "code" / "a0001" / "pkg" / "model.py").read_text() == "old"
