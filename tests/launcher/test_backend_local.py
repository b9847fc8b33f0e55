"""The local backend's pure part, and what it refuses before it starts anything."""

import sys
from pathlib import Path

import pytest

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.units import NodeCount, Size
from torchrelay_launch.backends import RunRef, load_backend
from torchrelay_launch.runs.claims import claim_attempt, create_run
from torchrelay_launch.spec.models import JobSpec, Resources
from torchrelay_launch.supervisor import options

JOB = JobSpec(name="t", script="train.py", secrets=["API_KEY"], resources=Resources(nodes=NodeCount(2, 2)))
RUN = RunRef("t-1", "/runs/t-1", 1, "/data")


def test_render_is_deterministic_and_shows_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "hunter22")
    backend = load_backend("local")
    text = str(backend.render(JOB, RUN))
    assert text == str(backend.render(JOB, RUN))
    assert "hunter22" not in text
    assert "API_KEY=***" in text


def test_render_shows_every_nodes_supervisor_and_torchrun() -> None:
    submission = load_backend("local").render(JOB, RUN)
    assert [command.title for command in submission.submits] == ["node 0: supervisor", "node 1: supervisor"]
    assert submission.submits[1].argv[:4] == (sys.executable, "-m", "torchrelay_launch", "node")
    parsed = options.parse(list(submission.submits[1].argv[4:]))
    assert (parsed.run, parsed.attempt, parsed.node, parsed.nodes) == ("/runs/t-1", 1, 1, 2)
    assert submission.starts[1].argv[1:3] == ("-m", "torch.distributed.run")
    assert submission.starts[1].env["TORCHRELAY_RUN"] == "/runs/t-1"


def test_storage_options_reach_supervisors_and_ranks() -> None:
    job = JobSpec(name="t", script="train.py", storage_options={"endpoint_url": "http://minio:9000"})
    run = RunRef("t-1", "s3://bucket/t-1", 1, "/data")
    submission = load_backend("local").render(job, run)
    on_slurm = load_backend("slurm").render(job, run)
    for command in (*submission.submits, *submission.starts, *on_slurm.starts):
        assert command.env["TORCHRELAY_STORAGE_OPTIONS"] == '{"endpoint_url": "http://minio:9000"}'


def test_fields_that_are_not_honoured_are_named() -> None:
    job = JobSpec(name="t", script="a.py", resources=Resources(memory=Size(1 << 30)))
    assert "resources.memory" in str(load_backend("local").render(job, RUN))
    assert not load_backend("local").render(JOB, RUN).warnings


def test_unknown_backends_are_named() -> None:
    with pytest.raises(ConfigError, match="there is no backend 'moon'"):
        load_backend("moon")


def submit(job: JobSpec, workdir: Path) -> None:
    storage = create_run(str(workdir / "runs"), job)
    claim_attempt(storage, job, {}, "local", str(workdir), 0)
    backend = load_backend("local")
    backend.submit(backend.render(job, RunRef("t", storage.url, 1, str(workdir))), tethered=False)


def test_what_cannot_start_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"there is no file 'train\.py'"):
        submit(JOB, tmp_path)
    (tmp_path / "train.py").touch()
    monkeypatch.delenv("API_KEY", raising=False)
    with pytest.raises(ConfigError, match="not set in this shell: API_KEY"):
        submit(JOB, tmp_path)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install torchrelay\[train\]"):
        submit(JOB, tmp_path)


def test_node_options_come_back_from_their_arguments() -> None:
    given = options.NodeOptions("s3://b/r x", 3, 1, 4, "[::1]:7", coordinator_fd=5, tether=6, join_s=2.5)
    assert options.parse(given.argv()) == given
    assert given.address == ("::1", 7)


@pytest.mark.parametrize(
    "argv", [[], ["--run", "x"], ["--run", "x", "--attempt", "0"], ["--run", "x", "--attempt", "y"]]
)
def test_wrong_node_options_are_refused(argv: list[str]) -> None:
    with pytest.raises(ConfigError):
        options.parse(argv)


def test_node_index_beyond_the_nodes_is_refused() -> None:
    with pytest.raises(ConfigError, match="--node must lie"):
        options.parse(["--run", "x", "--attempt", "1", "--node", "2", "--nodes", "2"])
