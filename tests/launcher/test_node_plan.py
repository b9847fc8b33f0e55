"""What a node starts, and on which port."""

import dataclasses
import socket
from pathlib import Path

import pytest

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.units import Duration, NodeCount
from torchrelay_launch import ports
from torchrelay_launch.runs.claims import claim_attempt, create_run
from torchrelay_launch.spec.models import JobSpec, Resources, Restarts
from torchrelay_launch.supervisor.options import TOKEN_VARIABLE, NodeOptions
from torchrelay_launch.supervisor.plan import GangPlanner
from torchrelay_launch.supervisor.store_host import StoreHost
from torchrelay_launch.supervisor.work import Work, check, load_work
from torchrelay_launch.torchrun import run_port

JOB = JobSpec(
    name="t",
    script="a.py",
    env={"MINE": "1"},
    secrets=["API_KEY", "NOT_SET"],
    resources=Resources(nodes=NodeCount(2, 2), procs_per_node=3),
    restarts=Restarts(grace=Duration(7)),
)


@pytest.fixture
def planner(tmp_path: Path) -> GangPlanner:
    work = Work(LocalStorage(tmp_path / "run"), JOB, "t-1", str(tmp_path))
    return GangPlanner(work, NodeOptions("run", 4, node=1, nodes=2), tmp_path / "scratch")


def test_every_start_has_folders_of_its_own(planner: GangPlanner) -> None:
    first = planner.plan(0, "127.0.0.1", 5)
    (first.reports / "rank-00000.json").write_text("{}")
    second = planner.plan(1, "127.0.0.1", 6)
    assert list(second.reports.iterdir()) == []
    assert not first.reports.exists()
    assert (second.first_rank, second.ranks, second.grace_s) == (3, 3, 7.0)


def test_node_0_serves_the_store_and_the_others_wait_for_it(planner: GangPlanner) -> None:
    assert planner.plan(0, "10.0.0.1", 5).store_host == StoreHost("10.0.0.1", 5)
    first = GangPlanner(planner.work, dataclasses.replace(planner.options, node=0), planner.scratch)
    assert first.plan(0, "10.0.0.1", 5).store_host is None


def test_ranks_learn_where_they_belong_but_not_the_token(planner: GangPlanner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TOKEN_VARIABLE, "s3cret")
    monkeypatch.setenv("API_KEY", "hunter22")
    made = planner.plan(2, "127.0.0.1", 5)
    assert TOKEN_VARIABLE not in made.env
    assert {name: made.env[name] for name in ("MINE", "API_KEY", "TORCHRELAY_ATTEMPT", "TORCHRELAY_RESTART")} == {
        "MINE": "1",
        "API_KEY": "hunter22",
        "TORCHRELAY_ATTEMPT": "4",
        "TORCHRELAY_RESTART": "2",
    }
    assert made.env["TORCHRELAY_NODE"] == "1"
    assert Path(made.env["TORCHRELAY_REPORTS"]).is_dir()
    assert planner.work.secrets == ["hunter22"]


def test_port_that_is_in_use_is_passed_over(planner: GangPlanner) -> None:
    first = planner.port(0)
    assert first >= run_port("t-1", 0)
    with socket.create_server(("127.0.0.1", first)):
        assert planner.port(0) > first


def test_no_free_port_says_so(planner: GangPlanner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: False)
    with pytest.raises(ConfigError, match="are in use"):
        planner.port(0)


def test_attempt_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no run"):
        load_work(LocalStorage(tmp_path), 1)
    storage = create_run(str(tmp_path), JOB)
    with pytest.raises(ConfigError, match="has no attempt 2"):
        load_work(storage, 2)
    claim_attempt(storage, JOB, {}, "local", str(tmp_path), 0)
    assert load_work(storage, 1).job == JOB


def test_missing_folder_is_the_users_to_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        check(JOB, str(tmp_path / "gone"))


def test_what_the_storage_is_reached_with_stays_out_of_the_log(
    planner: GangPlanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", "hunter22")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "0123456789abcdef0123456789abcdef")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "test")  # hiding it would hide words of the log
    assert planner.work.secrets == ["hunter22", "0123456789abcdef0123456789abcdef"]
