"""The command line as a process of its own: help, mistakes, torch kept away, and pipes that close."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from torchrelay.contract.errors import StorageError
from torchrelay_launch import cli, installed
from torchrelay_launch.arguments import option_strings, parser_of
from torchrelay_launch.verbs import VERBS

ROOT = Path(__file__).resolve().parent.parent.parent
GOLDEN = ROOT / "tests" / "golden"
SPEC = """\
name: job
script: train.py
resources: {nodes: 2, procs_per_node: 2}
secrets: [API_KEY]
env: {GREETING: "it's me"}
"""

# Runs a command line in a process where importing torch raises.
WITHOUT_TORCH = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "torchvision", "numpy"):
            raise ImportError(f"{name} must not be imported here")
sys.meta_path.insert(0, Refuse())
from torchrelay_launch.cli import main
sys.exit(main())
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a job, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("API_KEY", "open sesame")
    monkeypatch.delenv("TORCHRELAY_STORAGE", raising=False)
    (tmp_path / "train.py").write_text("print('hello')\n")
    (tmp_path / "job.yaml").write_text(SPEC)
    return tmp_path


@pytest.fixture
def golden(capsys: pytest.CaptureFixture[str]) -> Callable[[str, dict[str, str]], None]:
    """Compares what was printed on stdout, with places replaced by names, with tests/golden/NAME.txt."""

    def compare(name: str, places: dict[str, str]) -> None:
        found = capsys.readouterr().out
        for place, stands_for in places.items():
            found = found.replace(place, stands_for)
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("TORCHRELAY_REFRESH_GOLDEN"):
            path.write_text(found)
        assert found == path.read_text(), f"{path} differs; TORCHRELAY_REFRESH_GOLDEN=1 pytest tests/launcher"

    return compare


def without_torch(*words: str, stdout: int = subprocess.PIPE) -> "subprocess.CompletedProcess[str]":
    argv = [sys.executable, "-c", WITHOUT_TORCH, *words]
    return subprocess.run(argv, stdout=stdout, stderr=subprocess.PIPE, text=True, timeout=60, check=False)


def test_overview(golden: Callable[[str, dict[str, str]], None]) -> None:
    for words in ([], ["--help"], ["help"]):
        assert cli.main(words) == 0
    golden("cli_help", {})


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb(verb: str, golden: Callable[[str, dict[str, str]], None]) -> None:
    assert cli.main([verb, "--help"]) == 0
    golden(f"cli_help_{verb}", {})


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_in_the_overview_and_its_help_has_an_example(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"\n  {verb} " in cli.overview()
    assert cli.main(["help", verb]) == 0
    assert re.search(rf"\nexamples?:\n(.*\n)*.*torchrelay {verb} ", capsys.readouterr().out)


@pytest.mark.parametrize("verb", VERBS)
def test_the_guide_has_every_verb_and_every_option(verb: str) -> None:
    guide = (ROOT / "docs" / "cli.md").read_text()
    assert f"\ntorchrelay {verb} " in guide or f"(torchrelay {verb} " in guide or f"\ntorchrelay {verb}\n" in guide
    parser = parser_of(verb, *VERBS[verb])
    __import__(f"torchrelay_launch.commands.{verb}", fromlist=["add_arguments"]).add_arguments(parser)
    missing = [option for option in option_strings(parser) if not re.search(rf"(?<![\w-]){option}(?![\w-])", guide)]
    assert missing == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["rnu", "job.yaml"], "did you mean 'run'?"),
        (["help", "stats"], "did you mean 'status'?"),
        (["run", "job.yaml", "--onn", "local"], "did you mean '--on'?"),
        (["run", "job.yaml", "--on", "slrum"], "did you mean 'slurm'?"),
        (["checkpoints", "verfy", "x"], "did you mean 'verify'?"),
        (["checkpoints", "ls", "x", "--jsno"], "did you mean '--json'?"),
        (["stop", "a", "b"], "unexpected argument 'b'"),
        (["stop"], "RUN"),
        (["--quiet", "ls"], "after the verb"),
        (["logs", "x", "--tail", "-1"], "at least 0"),
        (["logs", "x", "--rank", "one"], "'one' is not a whole number"),
        (["resume", "x", "--fro", "3"], "did you mean '--from'?"),
        (["run", "missing.yaml"], "missing.yaml"),
        (["status", "no-such-run"], "no-such-run"),
        (["frobnicate"], "there is no verb"),
    ],
)
def test_mistakes_get_a_hint_and_78(words: list[str], says: str, job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(words) == 78
    captured = capsys.readouterr()
    assert says in captured.err
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_every_mistake_of_a_spec_is_shown(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (job / "job.yaml").write_text("name: Job\nscirpt: train.py\n")
    assert cli.main(["run", "job.yaml"]) == 78
    message = capsys.readouterr().err
    assert "job.yaml:1:" in message
    assert "job.yaml:2:" in message
    assert "script" in message


def test_render(job: Path, golden: Callable[[str, dict[str, str]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "torch_version", lambda: "2.14.1")
    assert cli.main(["render", "job.yaml"]) == 0
    golden("cli_render", {sys.executable: "PYTHON", str(job): "/data"})


def test_render_as_json_and_as_dry_run(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for words in (["render", "job.yaml"], ["run", "job.yaml", "--dry-run"], ["submit", "job.yaml", "--dry-run"]):
        assert cli.main(words) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] == printed[2]
    assert "open sesame" not in printed[0]
    assert cli.main(["render", "job.yaml", "--json"]) == 0
    as_json = capsys.readouterr().out
    assert '"torch.distributed.run"' in as_json
    assert "open sesame" not in as_json
    assert not (job / "runs").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["--version"],
        ["validate", "job.yaml"],
        ["render", "job.yaml"],
        ["run", "job.yaml", "--dry-run"],
        ["ls"],
        *([verb, "--help"] for verb in VERBS),
        *(["completion", shell] for shell in ("bash", "zsh", "fish")),
    ],
    ids=" ".join,
)
def test_no_verb_needs_torch(words: list[str], job: Path) -> None:
    done = without_torch(*words)
    assert done.returncode == 0, done.stderr


def test_looking_at_a_run_needs_no_torch(job: Path) -> None:
    (job / "runs" / "job-1").mkdir(parents=True)
    record = '{"run_id": "job-1", "name": "job", "created_at": 1.0, "torchrelay": "0.1.0"}'
    (job / "runs" / "job-1" / "run.json").write_text(record)
    attempt = job / "runs" / "job-1" / "attempts" / "0001"
    attempt.mkdir(parents=True)
    values = '{"number": 1, "backend": "local", "created_at": 1.0, "host": "h", "workdir": "/"}'
    (attempt / "attempt.json").write_text(values)
    for words in (["status"], ["describe"], ["logs"], ["checkpoints", "ls"], ["checkpoints", "verify"]):
        done = without_torch(*words, "job-1")
        assert done.returncode == 0, done.stderr
    for verb in ("stop", "cancel"):
        done = without_torch(verb, "job-1")
        assert (done.returncode, "not running" in done.stderr) == (78, True), done.stderr


def test_a_pipe_that_closes_is_no_drama(job: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = without_torch("--help", stdout=writer)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_help_imports_next_to_nothing() -> None:
    code = "import sys; from torchrelay_launch.cli import main; main(['--help']); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    heavy = {"argparse", "asyncio", "dataclasses", "difflib", "fsspec", "json", "rich", "torch", "yaml"}
    assert heavy & set(done.stderr.split()) == set()


def test_errors_are_one_line_with_their_exit_code(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(argv: list[str]) -> int:
        raise StorageError("cannot write /full")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["ls"]) == 74
    assert capsys.readouterr().err == "error: cannot write /full\n"


def test_what_nobody_foresaw_asks_to_be_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(argv: list[str]) -> int:
        return 1 // 0

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["ls"]) == 70
    message = capsys.readouterr().err
    assert "Traceback" in message
    assert "report" in message


def test_ctrl_c_is_130_without_a_word(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(argv: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_dispatch", interrupt)
    assert cli.main(["ls"]) == 130
    assert capsys.readouterr().err == ""


def test_bash_completes_verbs_options_and_runs(job: Path) -> None:
    (job / "runs" / "digits-1").mkdir(parents=True)
    script = without_torch("completion", "bash").stdout
    for words, expected in (
        (["torchrelay", "ren"], "render"),
        (["torchrelay", "resume", "--det"], "--detach"),
        (["torchrelay", "status", "dig"], "digits-1"),
    ):
        typed = " ".join(words)
        lines = f"COMP_WORDS=({typed}); COMP_CWORD={len(words) - 1}; _torchrelay; echo ${{COMPREPLY[@]}}"
        done = subprocess.run(
            ["bash", "-c", f"{script}\n{lines}"], capture_output=True, text=True, timeout=20, check=True
        )
        assert done.stdout.strip() == expected
