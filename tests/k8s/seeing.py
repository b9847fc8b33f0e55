"""What a cluster says of pods that wait or crashed, and what a verb then prints."""

import datetime
from typing import Any

import pytest
from api_server import Cluster
from submitting import pod

from torchrelay_launch.cli import main
from torchrelay_launch.starting import Started

WAITING_TO_MOUNT = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}


def warn(cluster: Cluster, about: str, message: str, at: str = "2026-11-21T10:16:00Z", **more: str) -> None:
    event = {"metadata": {"name": f"{about}.{at}"}, "involvedObject": {"name": about}, "type": "Warning"}
    cluster.put("events", event | {"message": message, "lastTimestamp": at} | more)


def crashed(started: Started, code: int, **ended: Any) -> dict[str, Any]:
    """A pod of node 1 whose container ended, just now."""
    now = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=1)
    state = {"exitCode": code, "reason": "Error", "finishedAt": now.strftime("%Y-%m-%dT%H:%M:%SZ")} | ended
    made = pod(started, phase="Failed", containerStatuses=[{"name": "train", "state": {"terminated": state}}])
    made["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] = "1"
    return made


def shown(started: Started, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    verb, *options = words
    capsys.readouterr()
    assert main([verb, started.storage.url, *options]) == 0
    return capsys.readouterr().out
