"""What a user is told to type."""

import sys
from pathlib import Path

import pytest

from torchrelay_launch.display.naming import program


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two programs, of which one was called by its path."""
    for name in ("torchrelay", "tensorboard"):
        (tmp_path / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "torchrelay"), "run"])
    monkeypatch.setenv("PATH", "/nowhere")
    return tmp_path


def test_what_the_shell_does_not_find_is_called_by_its_path(installed: Path) -> None:
    assert program("tensorboard") == str(installed / "tensorboard")


def test_what_the_shell_finds_is_called_by_its_name(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(installed))
    assert program("torchrelay") == "torchrelay"


def test_what_is_not_installed_is_called_by_its_name(installed: Path) -> None:
    assert program("tensorboard-not-here") == "tensorboard-not-here"
