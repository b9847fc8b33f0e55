"""Golden files, whose failures show the difference and how to accept it, and attempts under real supervisors."""

import difflib
import os
import signal
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parent))  # for supervised, which lies beside the tests

from supervised import Attempt, Start, marked

from torchrelay.contract.units import NodeCount
from torchrelay_launch import processes
from torchrelay_launch.backends import RunRef, load_backend
from torchrelay_launch.runs.claims import claim_attempt, create_run
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec, Resources, Restarts

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


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Submits a script: `start(text, procs=2, on_failure=0, STEPS="7")`; in the end kills what is left of it."""
    mark = uuid.uuid4().hex
    monkeypatch.setenv("MARK", mark)

    def started(script: str, *, nodes: int = 1, procs: int = 1, tethered: bool = False, **restarts: Any) -> Attempt:
        (tmp_path / "script.py").write_text(textwrap.dedent(script))
        env = {name: restarts.pop(name) for name in list(restarts) if name.isupper()}
        limit = restarts.pop("time_limit", None)
        resources = Resources(nodes=NodeCount(nodes, nodes), procs_per_node=procs, time_limit=limit)
        job = JobSpec(name="t", script="script.py", resources=resources, restarts=Restarts(**restarts), env=env)
        storage = create_run(str(tmp_path / "runs"), job)
        record = claim_attempt(storage, job, {}, "local", str(tmp_path), 0)
        run = RunRef(run_status(storage).run_id, storage.url, record.number, str(tmp_path))
        backend = load_backend("local")
        return Attempt(storage, backend.submit(backend.render(job, run), tethered=tethered), mark)

    yield started
    for pid in marked(mark):
        processes.send(pid, signal.SIGKILL)
