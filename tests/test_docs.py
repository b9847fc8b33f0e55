"""What the README and the docs show works: links lead somewhere, specs are valid, commands exist."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\((?!https?:)([^)#\s]+)(?:#[^)]*)?\)")


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    targets = [page.parent / link for link in LINK.findall(page.read_text())]
    assert [str(target) for target in targets if not target.exists()] == []


WHOLE_SPECS = [
    (page, text) for page in PAGES for text in blocks(page, "yaml") if re.search(r"^name:", text, re.MULTILINE)
]


@pytest.mark.parametrize(("page", "text"), WHOLE_SPECS, ids=[page.name for page, _ in WHOLE_SPECS])
def test_specs_are_valid(page: Path, text: str, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(text)
    done = subprocess.run(
        [sys.executable, "-m", "torchrelay_launch", "validate", "job.yaml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_shows_a_spec() -> None:
    assert any(page.name == "README.md" for page, _ in WHOLE_SPECS)


def commands() -> list[str]:
    """Every line of a block that starts with `torchrelay`, without its explanation."""
    lines = [line for page in PAGES for _, text in BLOCK.findall(page.read_text()) for line in text.splitlines()]
    found = {
        re.split(r"\s{2,}|\s#", line.removeprefix("$ "))[0] for line in lines if re.match(r"(\$ )?torchrelay ", line)
    }
    return sorted(found)


def test_commands_in_the_docs_exist_with_their_options() -> None:
    """Each is parsed by the real parser, without being run."""
    from torchrelay_launch import cli

    for command in commands():
        words = shlex.split(command)[1:]
        assert cli.parse([word.strip("[]") for word in words if word != "..."]), command
