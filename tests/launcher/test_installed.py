from importlib import metadata
from pathlib import Path

import pytest

from torchrelay_launch.installed import torch_version


def test_torchs_version_is_what_its_package_says() -> None:
    assert torch_version().split("+")[0] == metadata.version("torch").split("+")[0]


def test_without_torch_there_is_no_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sys.path", [str(tmp_path)])
    assert torch_version() == ""
