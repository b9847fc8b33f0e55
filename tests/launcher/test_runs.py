"""Runs in storage: finding, claiming, stopping, and how they stand."""

import os
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from torchrelay.contract import events, layout, records
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import Failure, Heartbeat, OutcomeRecord, StopRequest
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch import processes
from torchrelay_launch.runs import status as status_module
from torchrelay_launch.runs.claims import claim_attempt, create_run
from torchrelay_launch.runs.locate import find_run, open_for, storage_url
from torchrelay_launch.runs.observed import Observed
from torchrelay_launch.runs.status import list_runs, run_status
from torchrelay_launch.runs.stop import request_stop
from torchrelay_launch.spec.models import JobSpec

JOB = JobSpec(name="digits", script="train.py")


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    return create_run(str(tmp_path / "runs"), JOB, "name: digits\n")


def claim(storage: Storage, expected_last: int = 0) -> None:
    claim_attempt(storage, JOB, {"script": "x.yaml:1:1"}, "local", "/", expected_last)


def beat(storage: Storage, *, pid: int = 0, attempt: int = 1, age_s: float = 0, host: str = "") -> None:
    pid = pid or os.getpid()
    process = processes.look_at(pid)
    heartbeat = Heartbeat(
        time.time() - age_s,
        pid,
        host or socket.gethostname(),
        process.started if process else 0,
        processes.boot_id(),
        restart=2,
    )
    storage.replace(layout.attempt_file(attempt, "heartbeat"), records.dump(heartbeat))


def finish(storage: Storage, outcome: Outcome, code: int, failure: Failure | None = None) -> None:
    record = OutcomeRecord(outcome, code, time.time(), 7, failure, restarts=1)
    storage.create(layout.attempt_file(1, "outcome"), records.dump(record))


def event(storage: Storage, writer: Writer, step: int) -> None:
    line = events.encode({"event": "step", "t": 0.0, "step": step, "total_steps": 100})
    storage.append(layout.events_file(writer), line)


def ended_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_run_refused_by_its_storage_leaves_nothing_there(monkeypatch: pytest.MonkeyPatch) -> None:
    put = MemoryFileSystem.pipe_file
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda self, path, value, **_: put(self, path, value))
    url = f"memory://runs-{os.urandom(4).hex()}"
    with pytest.raises(ConfigError, match="made twice"):
        create_run(url, JOB, "name: digits\n")
    assert open_storage(url).list("") == []


def test_a_supervisor_may_end_while_it_is_looked_at(run: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(run)
    beat(run)

    def look(_heartbeat: Heartbeat) -> bool:
        outcome = OutcomeRecord(Outcome.COMPLETED, 0, time.time())
        run.create(layout.attempt_file(1, "outcome"), records.dump(outcome))
        return False

    monkeypatch.setattr(status_module, "supervisor_alive", look)
    assert run_status(run).state is RunState.COMPLETED


def test_an_attempt_may_end_while_its_backend_is_asked(run: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(run)

    def observe(_storage: Storage, _backend: str, _attempt: int) -> Observed | None:
        if records.read(run, OutcomeRecord, layout.attempt_file(1, "outcome")) is not None:
            return None
        run.create(layout.attempt_file(1, "stop"), records.dump(StopRequest("stop", 0.0, "me")))
        run.create(layout.attempt_file(1, "outcome"), records.dump(OutcomeRecord(Outcome.PREEMPTED, 75, 0.0)))
        return Observed(RunState.FAILED, error="the job failed before the attempt could say how it ended")

    monkeypatch.setattr(status_module, "observe", observe)
    status = run_status(run)
    assert (status.state, status.error) == (RunState.STOPPED, None)


def test_storage_comes_from_the_option_then_the_environment_then_the_spec(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHRELAY_STORAGE", raising=False)
    assert storage_url(None) == str(tmp_path / "runs")
    assert storage_url(None, "s3://bucket/runs") == "s3://bucket/runs"
    monkeypatch.setenv("TORCHRELAY_STORAGE", "elsewhere")
    assert storage_url(None, "spec") == str(tmp_path / "elsewhere")
    assert storage_url("/option", "spec") == "/option"


@pytest.mark.parametrize("url", ["sftp://me:hunter2@host/runs", "az://runs/a?sv=1&sig=hunter2"])
def test_a_url_with_a_secret_in_it_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="has a secret in it") as caught:
        storage_url(url)
    assert "hunter2" not in str(caught.value)


def test_run_is_found_by_path_id_and_unique_start(run: Storage, tmp_path: Path) -> None:
    root = str(tmp_path / "runs")
    run_id = run.url.rpartition("/")[2]
    for text in (run.url, run_id, run_id[:-2], "digits"):
        assert find_run(text, root).url == run.url


def test_ambiguous_start_lists_the_candidates(run: Storage, tmp_path: Path) -> None:
    other = create_run(str(tmp_path / "runs"), JOB)
    with pytest.raises(ConfigError, match="more than one") as raised:
        find_run("digits", str(tmp_path / "runs"))
    for storage in (run, other):
        assert storage.url.rpartition("/")[2] in str(raised.value)


def test_unknown_run_names_the_nearest(run: Storage, tmp_path: Path) -> None:
    root, run_id = str(tmp_path / "runs"), run.url.rpartition("/")[2]
    with pytest.raises(ConfigError, match=f"did you mean {run_id}"):
        find_run(run_id.replace("digits", "digit"), root)
    with pytest.raises(ConfigError, match=f"the newest there: {run_id}"):
        find_run("zzz", root)
    with pytest.raises(ConfigError, match="it holds no run at all"):
        find_run("zzz", str(tmp_path / "empty"))
    with pytest.raises(ConfigError, match=r"has no run\.json"):
        find_run(str(tmp_path / "nothing"), root)


def test_of_two_claims_at_once_exactly_one_wins(run: Storage) -> None:
    results: list[str] = []
    barrier = threading.Barrier(8)

    def one() -> None:
        barrier.wait()
        try:
            claim(run)
            results.append("won")
        except ConfigError as error:
            results.append(str(error))

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.count("won") == 1
    assert sum("is being resumed as attempt 1" in text for text in results) == 7


def test_new_run_is_pending_until_its_supervisor_shows_itself(run: Storage) -> None:
    assert run_status(run).state is RunState.PENDING
    claim(run)
    status = run_status(run)
    assert (status.state, status.attempts, status.backend, status.live) == (RunState.PENDING, 1, "local", True)
    beat(run)
    assert run_status(run).state is RunState.RUNNING


def test_dead_supervisor_is_told_from_a_live_one(run: Storage) -> None:
    claim(run)
    beat(run, pid=ended_pid())
    event(run, Writer(1, 0), 30)
    status = run_status(run)
    assert (status.state, status.exit_code, status.step, status.total_steps) == (RunState.FAILED, 137, 30, 100)
    assert "ended without a word" in (status.error or "")
    assert "starts again from the beginning" in (status.error or "")
    run.create("checkpoints/step-000000020-a0001-r00/manifest.json", b"{}")
    assert "goes on from step 20" in (run_status(run).error or "")


def test_reused_pid_is_not_taken_for_the_supervisor(run: Storage) -> None:
    claim(run)
    beat(run)
    heartbeat = records.read(run, Heartbeat, layout.attempt_file(1, "heartbeat"))
    assert heartbeat is not None
    earlier = Heartbeat(**{**heartbeat.__dict__, "process_started": heartbeat.process_started - 1})
    run.replace(layout.attempt_file(1, "heartbeat"), records.dump(earlier))
    assert run_status(run).state is RunState.FAILED


def test_supervisor_on_another_machine_is_judged_by_its_heartbeats_age(run: Storage) -> None:
    claim(run)
    beat(run, host="elsewhere", age_s=20)
    assert run_status(run).state is RunState.RUNNING
    beat(run, host="elsewhere", age_s=31)
    assert run_status(run).state is RunState.FAILED


def test_heartbeats_on_object_storage_may_be_rarer() -> None:
    run = create_run(f"memory://runs-{os.urandom(4).hex()}", JOB)
    claim(run)
    interval_s = Heartbeat.interval_on(run)
    assert interval_s > Heartbeat.INTERVAL_S
    for age_s, state in ((31, RunState.RUNNING), (6 * interval_s + 1, RunState.FAILED)):
        record = Heartbeat(time.time() - age_s, 1, "elsewhere", 0, "", interval_s=interval_s)
        run.replace(layout.attempt_file(1, "heartbeat"), records.dump(record))
        assert run_status(run).state is state


def test_runs_are_found_below_a_url(monkeypatch: pytest.MonkeyPatch) -> None:
    root = f"memory://runs-{os.urandom(4).hex()}"
    made = [create_run(root, JobSpec(name=name, script="a.py")) for name in ("digits", "letters")]
    assert {one.url for one in list_runs(root)} == {one.url for one in made}
    assert find_run(made[0].url).url == made[0].url
    assert find_run("let", root).url == made[1].url
    monkeypatch.setenv("TORCHRELAY_STORAGE", root)
    assert find_run("digits").url == made[0].url
    with pytest.raises(ConfigError, match="did you mean digits"):
        find_run("digitz-" + made[0].url.partition("digits-")[2])


def test_the_spec_says_how_its_storage_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHRELAY_STORAGE_OPTIONS", '{"retry_s": 7}')

    def retry_s(options: dict[str, Json]) -> float:
        storage = open_for(JobSpec(name="x", script="a.py", storage_options=options), "memory://runs")
        return float(storage.connection.limits.retry_s)  # type: ignore[attr-defined]

    assert retry_s({"retry_s": 9}) == 9
    assert retry_s({}) == 7


def test_attempt_that_never_started_is_failed_after_a_while(run: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    claim(run)
    monkeypatch.setattr(status_module, "STARTING_S", -1.0)
    status = run_status(run)
    assert status.state is RunState.FAILED
    assert "never started" in (status.error or "")


@pytest.mark.parametrize(
    ("outcome", "code", "stopped", "state"),
    [
        (Outcome.COMPLETED, 0, False, RunState.COMPLETED),
        (Outcome.PREEMPTED, 75, False, RunState.PREEMPTED),
        (Outcome.PREEMPTED, 75, True, RunState.STOPPED),
        (Outcome.FAILED, 3, False, RunState.FAILED),
        (Outcome.SUPERSEDED, 76, False, RunState.FAILED),
    ],
)
def test_outcome_gives_the_state(run: Storage, outcome: Outcome, code: int, stopped: bool, state: RunState) -> None:
    claim(run)
    if stopped:
        run.create(layout.attempt_file(1, "stop"), records.dump(StopRequest("stop", 0.0, "me")))
    finish(run, outcome, code, Failure("bad luck", code) if outcome is Outcome.FAILED else None)
    status = run_status(run)
    assert (status.state, status.exit_code, status.step) == (state, code, 7)
    assert (status.error is not None) == (state is RunState.FAILED)
    assert not status.live


def test_step_is_that_of_the_last_gang(run: Storage) -> None:
    claim(run)
    beat(run)
    event(run, Writer(1, 0), 50)
    event(run, Writer(1, 1), 40)
    run.append(layout.events_file(Writer(1, 1)), b'{"event": "step", "step": 99')
    assert run_status(run).step == 40


def test_status_json_has_the_documented_fields(run: Storage) -> None:
    assert list(run_status(run).json()) == [
        *("run_id", "url", "state", "step", "total_steps", "attempts", "backend", "backend_id"),
        *("last_checkpoint_step", "exit_code", "error"),
    ]


def test_list_is_newest_first_and_leaves_out_what_is_damaged(
    run: Storage, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    newer = create_run(str(tmp_path / "runs"), JOB)
    (tmp_path / "runs" / "broken").mkdir()
    (tmp_path / "runs" / "broken" / "run.json").write_text("{")
    (tmp_path / "runs" / "other").mkdir()
    assert [one.url for one in list_runs(str(tmp_path / "runs"))] == [newer.url, run.url]
    assert "left out the run broken" in caplog.text


def test_stop_is_asked_once_and_cancel_takes_its_place(run: Storage) -> None:
    claim(run)
    beat(run, pid=ended_pid())
    with pytest.raises(ConfigError, match="nothing to stop"):
        request_stop(run, "stop")
    beat(run)
    first = request_stop(run, "stop")
    assert request_stop(run, "stop") == first
    assert request_stop(run, "cancel").kind == "cancel"
    assert request_stop(run, "stop").kind == "cancel"
