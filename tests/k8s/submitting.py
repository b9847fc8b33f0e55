"""Submitting a job to the tests' API server, and what a cluster then makes of it."""

import dataclasses
import time
from pathlib import Path
from typing import Any

import pytest

from torchrelay.contract.errors import TorchrelayError
from torchrelay_launch.backends.kubernetes import generations
from torchrelay_launch.backends.kubernetes.generations import Begin
from torchrelay_launch.planning import plan
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.starting import Started, start_new


def with_options(job: JobSpec, **changes: Any) -> JobSpec:
    return dataclasses.replace(job, kubernetes=dataclasses.replace(job.kubernetes, **changes))


def submit(job: JobSpec, tmp_path: Path) -> Started:
    return start_new(plan(job, "kubernetes", str(tmp_path / "runs")), tethered=False)


def refusal(job: JobSpec, tmp_path: Path) -> str:
    with pytest.raises(TorchrelayError) as caught:
        submit(job, tmp_path)
    return str(caught.value)


def name_of(started: Started) -> str:
    return started.handle.backend_id


def begin(started: Started, attempt: int = 1) -> None:
    values = Begin(name_of(started), f"{name_of(started)}-0-x", "10.0.0.1", 29400, 1, "t", time.time())
    generations.write_begin(started.storage, attempt, values)


def pod(started: Started, **status: Any) -> dict[str, Any]:
    labels = {"torchrelay/run": started.storage.url.rpartition("/")[2], "torchrelay/attempt": "1"}
    return {"metadata": {"name": f"{name_of(started)}-0-abcde", "labels": labels}, "status": status}


def pod_argv(run: str, job: str = "j", nodes: int = 1) -> list[str]:
    """What a pod of a run's first attempt is told."""
    words = {"--run": run, "--attempt": 1, "--job": job, "--nodes": nodes, "--join": 9}
    words |= {"--coordinator": f"{job}-0.{job}:29400"}
    return [str(word) for pair in words.items() for word in pair]
