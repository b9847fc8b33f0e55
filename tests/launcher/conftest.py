"""Golden files: what is rendered is compared with a file, and a failure shows the difference and how to accept it."""

import difflib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent.parent / "golden"
UPDATE = "UPDATE_GOLDEN"


@pytest.fixture
def golden_file(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """Compare a text with tests/golden/NAME."""

    def compare(name: str, text: str) -> None:
        path = GOLDEN / name
        if os.environ.get(UPDATE):
            path.write_text(text)
        expected = path.read_text() if path.exists() else ""
        difference = "".join(difflib.unified_diff(expected.splitlines(True), text.splitlines(True), str(path), "now"))
        refresh = f"{UPDATE}=1 python -m pytest {request.node.nodeid.partition('[')[0]}"
        assert text == expected, f"{difference}\nif this is meant: {refresh}"

    return compare
