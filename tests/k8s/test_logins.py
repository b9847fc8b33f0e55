"""Logins by a command that a kubeconfig names: what it says when it fails, and credentials that run out."""

import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import Cluster, Refusal
from submitting import begin, refusal, submit

from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the client's own
    pytest.mark.timeout(60),
]
CREDENTIAL = """#!/bin/sh
test -e "{here}/fails" && {{ echo "session expired: run sso login" >&2; exit 1; }}
echo '{{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status":
  {{"token": "good", "expirationTimestamp": "2020-01-01T00:00:00Z"}}}}'
"""


@pytest.fixture
def login(kubeconfig: Path, tmp_path: Path) -> Path:
    """A command that gives a token which has expired already, until there is a file of this name."""
    command = tmp_path / "login"
    command.write_text(CREDENTIAL.format(here=tmp_path))
    command.chmod(0o755)
    config: dict[str, Any] = yaml.safe_load(kubeconfig.read_text())
    way = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(command), "interactiveMode": "Never"}
    config["users"] = [{"name": "ada", "user": {"exec": way}}]
    kubeconfig.write_text(yaml.safe_dump(config))
    return tmp_path / "fails"


def test_a_command_that_logs_in(login: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    cluster.token = "good"
    submit(job, tmp_path)
    assert len(cluster.all("jobs")) == 1


def test_a_login_that_fails_says_why_and_asks_for_nothing(
    login: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    login.touch()
    said = refusal(job, tmp_path)
    assert "session expired: run sso login" in said
    assert "log in to the cluster again" in said
    assert cluster.calls == []
    assert "ERROR:root" not in capsys.readouterr().err


def test_a_login_that_fails_later_is_no_verdict_on_the_run(
    login: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    login.touch()
    cluster.token = "another"
    for _ in range(2):  # with the token that has expired, and with none
        assert "session expired: run sso login" in run_status(started.storage).unreachable
    login.unlink()
    cluster.token = "good"
    assert run_status(started.storage).unreachable == ""


def test_nobody_in_particular_has_to_log_in(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    """An API server lets requests without credentials in, and finds that they may do nothing."""

    def nobody(_method: str, _path: str) -> None:
        raise Refusal(
            403,
            'jobs.batch "j" is forbidden: User "system:anonymous" cannot get resource "jobs" in API group "batch" in '
            'the namespace "training"',
        )

    started = submit(job, tmp_path)
    cluster.interventions.append(nobody)
    assert "log in to the cluster" in run_status(started.storage).unreachable


def test_the_log_is_as_before(login: Path, job: JobSpec, tmp_path: Path) -> None:
    handlers = list(logging.getLogger().handlers)
    submit(job, tmp_path)
    assert logging.getLogger().handlers == handlers
