"""Whole runs whose home is a bucket of a real S3 server: started, stopped, killed, resumed, looked at."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faulty_proxy import FaultyProxy
from relay import wait_until
from relay_on_s3 import RelayOnUrl
from s3_settings import SECRET

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LAST_STEP = 184
JOB = ("paced.yaml", "--set", "train.epochs=8", "--set", "checkpoint.every=20 steps", "--set", "train.log_every=5")
PROMPT = ("--set", "storage_options.flush_s=0.3")  # tests wait for events


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The digest of the same job, on local disk and left alone."""
    folder = tmp_path_factory.mktemp("undisturbed")
    relay = RelayOnUrl(folder, str(folder / "runs"))
    relay("run", *JOB)
    return relay.digest()


@pytest.fixture
def relay(s3_url: str, tmp_path: Path) -> Iterator[RelayOnUrl]:
    """The command line with an empty bucket."""
    relay = RelayOnUrl(tmp_path, s3_url)
    yield relay
    relay.kill_what_is_left()


def assert_no_secret(relay: RelayOnUrl, *outputs: str) -> None:
    written = relay.objects()
    assert written
    assert [name for name, data in written.items() if SECRET.encode() in data] == []
    assert not any(SECRET in output for output in outputs)


def test_a_run_is_stopped_looked_at_and_resumed(relay: RelayOnUrl, undisturbed: dict[str, Any]) -> None:
    job = relay.start("run", *JOB, *PROMPT)
    relay.wait_for_step(5)
    name = relay.run().url.rpartition("/")[2]
    assert [command for command in relay.processes().values() if SECRET in command] == []
    assert relay.json("status", name)["state"] == "running"
    stopped = relay("stop", name, code=0) + relay.finish(job, code=75)
    status = relay.json("status", name)
    assert (status["state"], status["attempts"]) == ("stopped", 1)
    assert 5 <= status["last_checkpoint_step"] < LAST_STEP

    finished = relay("resume", name)
    [listed] = relay.json("ls")
    assert (listed["run_id"], listed["state"], listed["step"]) == (name, "completed", LAST_STEP)
    assert [one["state"] for one in relay.json("describe", name)["history"]] == ["stopped", "completed"]
    logs = relay("logs", name)
    assert "[node 0 rank 0] step 184/184" in logs
    assert "ended with exit code 0" in logs  # the supervisor's last line
    assert all(not one["problems"] for one in relay.json("checkpoints", "verify", name))
    assert len(relay.json("checkpoints", "ls", name)) >= 2
    assert relay.digest() == undisturbed
    curves = {name: data for name, data in relay.objects().items() if "/tensorboard/events.out." in name}
    assert any(b"train/loss" in data for data in curves.values())
    assert f"tensorboard --logdir {relay.run().url}/tensorboard" in finished
    assert_no_secret(relay, stopped, finished, logs)
    relay.wait_until_nothing_is_left()


def test_a_killed_rank_is_started_again(relay: RelayOnUrl, undisturbed: dict[str, Any]) -> None:
    job = relay.start("run", *JOB, *PROMPT)
    relay.wait_for_step(25)
    os.kill(relay.process("torchrelay.train", rank=1), signal.SIGKILL)
    output = relay.finish(job)
    assert "SIGKILL" in output
    assert relay.digest() == undisturbed
    assert_no_secret(relay, output)


def test_one_request_in_ten_fails_and_only_the_spec_knows_the_way(
    relay: RelayOnUrl, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = os.environ["AWS_ENDPOINT_URL"]
    with FaultyProxy(endpoint, seed=7) as proxy:
        proxy.rates = {"500": 0.02, "503": 0.02, "reset": 0.02, "lost": 0.02, "timeout": 0.01, "truncated": 0.01}
        options = ("--set", f"storage_options.endpoint_url={proxy.url}", "--set", "storage_options.timeout_s=2")
        monkeypatch.delenv("AWS_ENDPOINT_URL")
        output = relay("run", *JOB, *options)
        failed, requests = sum(proxy.done.values()), len(proxy.requests)
    assert failed > 0.05 * requests
    assert len(proxy.done) >= 4
    assert "completed" in output
    assert "export TORCHRELAY_STORAGE_OPTIONS=" in output
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    assert relay.digest() == undisturbed
    assert_no_secret(relay, output)


OUTAGE_S = 16.0  # so that two or three saves are given up, and steps are left
AWAY = ("--set", "storage_options.retry_s=6", "--set", "storage_options.timeout_s=1")


def through(proxy: FaultyProxy) -> tuple[str, str]:
    return "--set", f"storage_options.endpoint_url={proxy.url}"


def test_saves_survive_a_bad_time_and_training_goes_on_through_an_outage(
    relay: RelayOnUrl, undisturbed: dict[str, Any]
) -> None:
    """First most requests fail, in all ways, and saves commit all the same; then all do, for longer than the limit."""
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], seed=11, hang_s=2.0) as proxy:
        job = relay.start("run", *JOB, *PROMPT, *AWAY, *through(proxy))
        relay.wait_for_step(5)
        proxy.rates = dict.fromkeys(("500", "503", "reset", "lost", "truncated"), 0.06)
        wait_until("a save has committed meanwhile", lambda: relay.events("checkpoint") or job.poll() is not None)
        proxy.rates = {"503": 0.4, "500": 0.3, "reset": 0.2, "timeout": 0.1}
        time.sleep(OUTAGE_S)
        proxy.rates = {}
        output = relay.finish(job)
    failed = relay.events("checkpoint_failed")
    assert failed
    assert "cannot" in failed[0]["error"]
    assert f"no checkpoint at step {failed[0]['step']}, training goes on: " in output
    assert relay.json("status", relay.run().url)["attempts"] == 1
    assert [name for name in relay.run().list("attempts/0001") if name.startswith("restart")] == ["restart-00.json"]
    assert relay.digest() == undisturbed
    assert_no_secret(relay, output)


def test_an_outage_ends_a_run_that_is_to_stop_then_and_resume_goes_on(
    relay: RelayOnUrl, undisturbed: dict[str, Any]
) -> None:
    stop = ("--set", "checkpoint.on_storage_failure=stop", "--set", "restarts.on_failure=0")
    with FaultyProxy(os.environ["AWS_ENDPOINT_URL"], seed=12) as proxy:
        job = relay.start("run", *JOB, *PROMPT, *AWAY, *stop, *through(proxy))
        wait_until("there is a checkpoint", lambda: relay.run() and relay.events("checkpoint"))
        proxy.rates = {"503": 1.0}
        output = relay.finish(job, code=74)
    said = r"error: cannot \w+ s3://\S+ at http://\S+: .*503.*; tried \d+ times in \d+ s"
    assert re.search(said, output), output
    assert "Traceback" not in output
    relay.wait_until_nothing_is_left()
    relay("resume", relay.run().url, "--set", "storage_options={}")
    assert relay.digest() == undisturbed
