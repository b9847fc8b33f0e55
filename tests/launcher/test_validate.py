import json
import subprocess
import sys
from pathlib import Path

import pytest

from torchrelay_launch.cli import main

GOOD = "name: job\nscript: train.py\nresources: {nodes: 2..4, procs_per_node: 2}\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.yaml").write_text(GOOD)
    (tmp_path / "bad.yaml").write_text("name: job\nscritp: train.py\n")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_a_line_for_every_good_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "good.yaml", "good.yaml"]) == 0
    out, err = capsys.readouterr()
    assert out == "good.yaml: good (job, 2..4 nodes x 2 processes)\n"
    assert err == ""


@pytest.mark.usefixtures("folder")
def test_every_error_of_every_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "bad.yaml", "good.yaml", "gone.yaml"]) == 78
    out, err = capsys.readouterr()
    assert out.startswith("good.yaml: good")
    assert "bad.yaml:2:1: unknown key `scritp`" in err
    assert "gone.yaml: there is no such file" in err
    assert "\x1b" not in err


@pytest.mark.usefixtures("folder")
def test_overrides_apply(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "good.yaml", "--set", "resources.nodes=1", "--set", "resources.procs_per_node=1"]) == 0
    assert capsys.readouterr().out == "good.yaml: good (job, 1 node x 1 process)\n"
    assert main(["validate", "good.yaml", "--set", "resources.nods=1"]) == 78
    assert "did you mean `nodes`?" in capsys.readouterr().err


@pytest.mark.usefixtures("folder")
def test_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "bad.yaml", "good.yaml", "gone.yaml", "--json"]) == 78
    out, err = capsys.readouterr()
    assert err == ""
    bad, good, gone = json.loads(out)
    assert good == {"job": "good.yaml", "valid": True, "runs": 1, "errors": []}
    assert bad["errors"] == [
        {
            "file": "bad.yaml",
            "line": 2,
            "column": 1,
            "error": "unknown key `scritp`",
            "hint": "did you mean `script`?",
        }
    ]
    assert gone["errors"][0]["line"] is None


def test_reading_a_spec_imports_nothing_slow(folder: Path) -> None:
    code = (
        "import sys; from torchrelay_launch.spec.reader import read_spec; read_spec('good.yaml');"
        "print(*({'torch', 'json', 'asyncio', 'rich', 'difflib', 'fsspec', 'argparse', 'pathlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], cwd=folder, capture_output=True, text=True, check=False,
                          env={"PYTHONPATH": ":".join(sys.path)})  # fmt: skip
    assert done.stdout.strip() == "", done.stderr
    assert done.returncode == 0, done.stderr
