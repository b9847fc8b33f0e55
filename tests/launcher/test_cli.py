"""The verbs that look at runs, on storages made by hand: what they print, and how they refuse."""

import dataclasses
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hand_made import COMPLETED, FAILED, NOW, PREEMPTED, HandMade

from torchrelay.contract import layout, records
from torchrelay.contract.records import (
    RunRecord,
    StopRequest,
)
from torchrelay.contract.storage import LocalStorage
from torchrelay_launch import cli

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture
def hand_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], HandMade]:
    """Makes a run of the given id and age under ./runs of an empty folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    monkeypatch.delenv("TORCHRELAY_STORAGE", raising=False)
    monkeypatch.setattr(time, "time", lambda: NOW)
    time.tzset()

    def make(run_id: str, ago_s: float) -> HandMade:
        storage = LocalStorage(tmp_path / "runs" / run_id)
        record = RunRecord(run_id, run_id.split("-", maxsplit=1)[0], NOW - ago_s, "0.1.0")
        storage.create(layout.RUN_RECORD, records.dump(record))
        return HandMade(storage)

    return make


@pytest.fixture
def four_runs(hand_made: Callable[[str, float], HandMade]) -> None:
    """One run in each of the states that matter."""
    running = hand_made("running-20261121-095000-aaaa", 600).attempt(1, 600).alive(1).saved(1, 20, 40)
    running.trained(1, 0, 40).trained(1, 40, 50, restart=1)
    running.logged(1, 0, "[node 0] starting", "[node 0 rank 0] step 50/100 loss 0.04", "[node 0 rank 1] hello")
    completed = hand_made("completed-20261120-100000-bbbb", 86400).attempt(1, 86400).trained(1, 0, 100)
    completed.saved(1, 50, 100).ended(1, 86400 - 90, COMPLETED)
    failed = hand_made("failed-20261121-080000-cccc", 7200).attempt(1, 7200).trained(1, 0, 30).saved(1, 20)
    failed.ended(1, 7100, FAILED).logged(1, 0, "[node 0 rank 1] ValueError: sample 7 is rotten")
    stopped = hand_made("stopped-20261121-070000-dddd", 10800).attempt(1, 10800).trained(1, 0, 30).saved(1, 30)
    stopped.ended(1, 10700, dataclasses.replace(PREEMPTED, step=30))
    stopped.attempt(2, 9000).trained(2, 30, 60).saved(2, 60).ended(2, 8900, PREEMPTED)
    request = StopRequest("stop", NOW - 8950, "ada@node-a")
    stopped.storage.create(layout.attempt_file(2, "stop"), records.dump(request))


@pytest.fixture
def golden(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Compares what was printed on stdout with tests/golden/NAME.txt."""

    def compare(name: str) -> None:
        found = capsys.readouterr().out.replace(str(tmp_path), "/data")
        path = GOLDEN / f"{name}.txt"
        if os.environ.get("TORCHRELAY_REFRESH_GOLDEN"):
            path.write_text(found)
        refresh = "TORCHRELAY_REFRESH_GOLDEN=1 pytest tests/launcher refreshes it"
        assert found == path.read_text(), f"{path} differs; {refresh}"

    return compare


RUNS = ("running", "completed", "failed", "stopped")


@pytest.mark.usefixtures("four_runs")
def test_ls(golden: Callable[[str], None]) -> None:
    assert cli.main(["ls"]) == 0
    golden("cli_ls")


@pytest.mark.usefixtures("four_runs")
@pytest.mark.parametrize("run", RUNS)
def test_status(run: str, golden: Callable[[str], None]) -> None:
    assert cli.main(["status", run]) == 0
    golden(f"cli_status_{run}")


@pytest.mark.usefixtures("four_runs")
@pytest.mark.parametrize("run", RUNS)
def test_describe(run: str, golden: Callable[[str], None]) -> None:
    assert cli.main(["describe", run]) == 0
    golden(f"cli_describe_{run}")


@pytest.mark.usefixtures("four_runs")
def test_json_of_status_has_exactly_the_promised_fields(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["status", "failed", "--json"]) == 0
    run_id = "failed-20261121-080000-cccc"
    assert json.loads(capsys.readouterr().out) == {
        "run_id": run_id,
        "url": f"{tmp_path}/runs/{run_id}",
        "state": "failed",
        "step": 34,
        "total_steps": 100,
        "attempts": 1,
        "backend": "local",
        "backend_id": "",
        "last_checkpoint_step": 20,
        "exit_code": 70,
        "error": "ValueError: sample 7 is rotten",
    }


@pytest.mark.usefixtures("four_runs")
def test_json_of_ls_and_describe(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [run["name"] for run in listed] == ["running", "failed", "stopped", "completed"]
    assert listed[0]["metrics"]["val/accuracy"] == pytest.approx(0.98)
    assert cli.main(["describe", "stopped", "--json"]) == 0
    described = json.loads(capsys.readouterr().out)
    assert [attempt["state"] for attempt in described["history"]] == ["preempted", "stopped"]
    assert described["evaluations"][-1]["step"] == 60
    assert described["checkpoint_steps"] == [30, 60]


@pytest.mark.usefixtures("hand_made")
def test_ls_without_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["ls", "nowhere"]) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no runs in" in captured.err
    assert cli.main(["ls", "nowhere", "--quiet"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.usefixtures("four_runs")
def test_logs_filter_and_tail(capsys: pytest.CaptureFixture[str]) -> None:
    def logs(*options: str) -> list[str]:
        assert cli.main(["logs", "running", *options]) == 0
        return capsys.readouterr().out.splitlines()

    assert len(logs()) == 3
    assert logs("--rank", "1") == ["[node 0 rank 1] hello"]
    assert logs("--tail", "1") == ["[node 0 rank 1] hello"]
    assert logs("--rank", "0", "--tail", "1") == ["[node 0 rank 0] step 50/100 loss 0.04"]
    assert logs("--node", "1") == []
    assert logs("--tail", "0") == []


@pytest.mark.usefixtures("four_runs")
def test_logs_of_an_attempt_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["logs", "running", "--attempt", "2"]) == 78
    assert "no attempt 2" in capsys.readouterr().err


def test_followed_logs_go_on_through_a_resume(
    hand_made: Callable[[str, float], HandMade], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = hand_made("job-20261121-090000-aaaa", 60).attempt(1, 60).alive(1).logged(1, 0, "[node 0] one", "[node 0] two")
    happenings = iter(
        [
            lambda: run.logged(1, 0, "[node 0] three"),
            lambda: run.ended(1, 1, PREEMPTED).attempt(2, 1).alive(2).logged(2, 0, "[node 0] four"),
            lambda: run.storage.append(layout.node_log(2, 0), b"[node 0] no line end"),
            lambda: run.ended(2, 0, COMPLETED),
        ]
    )
    monkeypatch.setattr(time, "sleep", lambda seconds: next(happenings)())
    assert cli.main(["logs", "job", "-f", "--tail", "1"]) == 0
    texts = [line.removeprefix("[node 0] ") for line in capsys.readouterr().out.splitlines()]
    assert texts == ["two", "three", "four", "no line end"]


@pytest.mark.parametrize("verb", ["stop", "cancel"])
@pytest.mark.usefixtures("four_runs")
def test_what_does_not_run_cannot_be_stopped(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([verb, "completed"]) == 78
    message = capsys.readouterr().err
    assert "not running" in message
    assert "completed" in message


def test_stop_waits_and_says_where(
    hand_made: Callable[[str, float], HandMade], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = hand_made("job-20261121-090000-aaaa", 60).attempt(1, 60).alive(1).trained(1, 0, 50)

    def stop(seconds: float) -> None:
        assert run.storage.size(layout.attempt_file(1, "stop"))
        run.saved(1, 60).ended(1, 0, PREEMPTED)

    monkeypatch.setattr(time, "sleep", stop)
    assert cli.main(["stop", "job"]) == 0
    out = capsys.readouterr().out
    assert out == "stopped at step 60; `torchrelay resume job-20261121-090000-aaaa` goes on from step 60\n"


def test_a_stop_that_ends_in_a_failure_says_so(
    hand_made: Callable[[str, float], HandMade], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = hand_made("job-20261121-090000-aaaa", 60).attempt(1, 60).alive(1).trained(1, 0, 30)
    monkeypatch.setattr(time, "sleep", lambda seconds: run.ended(1, 0, FAILED))
    assert cli.main(["stop", "job"]) == 70
    assert "sample 7 is rotten" in capsys.readouterr().out


def test_stop_and_cancel_without_waiting(
    hand_made: Callable[[str, float], HandMade], capsys: pytest.CaptureFixture[str]
) -> None:
    run = hand_made("job-20261121-090000-aaaa", 60).attempt(1, 60).alive(1).trained(1, 0, 30)
    for verb in ("stop", "cancel"):
        assert cli.main([verb, "job", "--no-wait"]) == 0
        request = records.read(run.storage, StopRequest, layout.attempt_file(1, "stop"))
        assert request is not None
        assert request.kind == verb


@pytest.mark.usefixtures("four_runs")
def test_a_running_run_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resume", "running"]) == 78
    message = capsys.readouterr().err
    for part in ("running", "2026-11-21 09:50:00", "node-a", "4242", "torchrelay stop"):
        assert part in message


@pytest.mark.usefixtures("four_runs")
def test_a_completed_run_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    for change in ([], ["--set", "train.epochs=5"], ["--set", "train.log_every=3"]):
        assert cli.main(["resume", "completed", *change]) == 0
        assert "completed at step 100: there is nothing to resume" in capsys.readouterr().err


@pytest.mark.usefixtures("four_runs")
def test_resume_from_a_step_that_was_not_saved(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resume", "stopped", "--from", "45"]) == 78
    assert "no checkpoint of step 45; there are: 30, 60" in capsys.readouterr().err


@pytest.mark.usefixtures("four_runs")
def test_resume_checks_what_set_makes_of_the_spec(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["resume", "stopped", "--set", "train.epochs=many", "--set", "train.sede=2"]) == 78
    message = capsys.readouterr().err
    assert "--set train.epochs" in message
    assert "seed" in message


def test_resume_where_the_folder_is_not(
    hand_made: Callable[[str, float], HandMade], capsys: pytest.CaptureFixture[str]
) -> None:
    hand_made("job-20261121-090000-aaaa", 60).attempt(1, 60, workdir="/nowhere").ended(1, 10, PREEMPTED)
    assert cli.main(["resume", "job"]) == 78
    assert "/nowhere" in capsys.readouterr().err
