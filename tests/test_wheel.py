"""The wheel, in an empty environment without torch, is a working launcher."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment with the wheel and what it needs."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    (wheel,) = folder.glob("*.whl")
    python = str(folder / "venv" / "bin" / "python")
    subprocess.run([python, "-m", "pip", "--disable-pip-version-check", "--quiet", "install", str(wheel)], check=True)
    return folder / "venv" / "bin"


def test_it_validates_and_renders_from_any_folder(installed: Path, tmp_path: Path) -> None:
    for name in ("digits.yaml", "digits-sweep.yaml"):
        shutil.copy(ROOT / "jobs" / name, tmp_path)
    templates = ["render", "digits-sweep.yaml", "--on", "slurm"]
    for words in (["validate", "digits.yaml"], ["render", "digits.yaml"], templates, ["--help"]):
        done = subprocess.run(
            [installed / "torchrelay", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert not done.stderr
    no_torch = subprocess.run([installed / "python", "-c", "import torch"], capture_output=True, check=False)
    assert no_torch.returncode == 1


def test_running_without_torch_says_what_to_install(installed: Path, tmp_path: Path) -> None:
    shutil.copy(ROOT / "jobs" / "digits.yaml", tmp_path)
    done = subprocess.run(
        [installed / "torchrelay", "run", "digits.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 78
    assert "torchrelay[train]" in done.stderr
    assert "Traceback" not in done.stderr
