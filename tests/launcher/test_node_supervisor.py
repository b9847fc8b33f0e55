"""Real supervisors around a real torchrun, with scripts that import no torch. Every process is found by a mark."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from supervised import RUNTIME_RANK, STUBBORN, Start, until

from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.units import Duration
from torchrelay_launch import processes
from torchrelay_launch.backends import load_backend
from torchrelay_launch.runs.claims import claim_attempt, create_run
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.runs.stop import request_stop
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.supervisor import fork_client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(240)]


def test_script_keeps_its_exit_code_and_its_traceback(start: Start) -> None:
    script = "import os, time\nif os.environ['RANK'] == '1':\n    raise SystemExit(int('3'))\ntime.sleep(100)"
    attempt = start(script, procs=2, on_failure=0)
    assert attempt.wait() == 3
    status = attempt.status()
    assert (status.state, status.exit_code) == (RunState.FAILED, 3)
    assert status.failure is not None
    assert status.failure.rank == 1
    assert "rank 1 (node 0) ended with exit code 3" in (status.error or "")
    attempt.await_end_of_all()


def test_the_same_error_twice_is_not_tried_a_third_time(start: Start) -> None:
    attempt = start("import sys\nprint('x' * 200_000)\nprint('no end', end='')\n{}['key']", on_failure=5)
    assert attempt.wait() == 1
    status = attempt.status()
    assert status.error == (
        "rank 0 (node 0) ended with exit code 1: KeyError: 'key' "
        "(gave up: the same error came twice in a row without any progress)"
    )
    assert status.failure is not None
    assert status.failure.traceback.startswith("Traceback")
    assert status.history[-1].restarts == 1
    assert "[node 0 rank 0] no end\n" in attempt.log()
    assert attempt.log().count("x") >= 400_000


def test_killed_torchrun_leaves_nothing(start: Start) -> None:
    attempt = start(STUBBORN, procs=2, on_failure=0)
    attempt.await_log("ready", 2)
    (torchrun,) = attempt.pids("torch.distributed.run")
    os.kill(torchrun, signal.SIGKILL)
    assert attempt.wait() == 137
    attempt.await_end_of_all()
    assert "torchrun (node 0) was killed by SIGKILL" in (attempt.status().error or "")


@pytest.mark.parametrize("also", ["nothing", "torchrun"])
def test_killed_supervisor_leaves_nothing(start: Start, also: str) -> None:
    attempt = start(STUBBORN, grace=Duration(1))
    attempt.await_log("ready")
    torchruns = attempt.pids("torch.distributed.run")
    assert len(attempt.pids()) == 6  # supervisor, fork server, guard, torchrun, rank, sleep
    others = torchruns if also == "torchrun" else []
    for pid in [*attempt.pids("torchrelay_launch node"), *others]:
        os.kill(pid, signal.SIGKILL)
    assert attempt.wait() == 137
    attempt.await_end_of_all(30)
    status = attempt.status()
    assert status.state is RunState.FAILED
    assert "ended without a word" in (status.error or "")


def test_killed_launcher_stops_the_run_cleanly(start: Start, tmp_path: Path) -> None:
    attempt = start(RUNTIME_RANK, procs=2, tethered=True)
    attempt.await_log("ready", 2)
    os.close(attempt.handle._tethers.pop())  # type: ignore[attr-defined]  # as the kernel does for a dead launcher
    assert attempt.wait() == 75
    assert attempt.status().state is RunState.PREEMPTED
    assert attempt.log().count("saved") == 2
    attempt.await_end_of_all()


def test_detached_run_outlives_its_launcher(start: Start) -> None:
    attempt = start(RUNTIME_RANK, tethered=True, STEPS="100")
    attempt.handle.detach()
    until(lambda: attempt.status().state is RunState.COMPLETED, 90, attempt.log)


def test_stop_during_the_start_waits_for_no_rank(start: Start) -> None:
    attempt = start(RUNTIME_RANK, procs=2)
    request_stop(attempt.storage, "stop")
    assert attempt.wait() == 75
    assert "ready" not in attempt.log()
    assert attempt.status().state is RunState.STOPPED
    attempt.await_end_of_all()


def test_storm_of_signals_is_one_clean_stop(start: Start) -> None:
    attempt = start(RUNTIME_RANK, procs=2)
    attempt.await_log("ready", 2)
    (supervisor,) = attempt.pids("torchrelay_launch node")
    for _ in range(50):
        processes.send(supervisor, signal.SIGUSR1)
        processes.send(supervisor, signal.SIGTERM)
        for torchrun in attempt.pids("torch.distributed.run"):
            processes.send(torchrun, signal.SIGUSR1)
    assert attempt.wait() == 75
    assert attempt.log().count("saved") == 2
    assert attempt.log().count("stopping:") == 1
    assert attempt.status().state is RunState.PREEMPTED


def test_cancel_does_not_wait(start: Start) -> None:
    attempt = start(STUBBORN)
    attempt.await_log("ready")
    load_backend("local").cancel(attempt.storage)
    attempt.await_end_of_all()
    assert attempt.wait() == 137
    assert attempt.status().state is RunState.STOPPED


def test_ranks_that_do_not_stop_are_killed_after_the_grace(start: Start) -> None:
    attempt = start(STUBBORN, grace=Duration(1))
    attempt.await_log("ready")
    request_stop(attempt.storage, "stop")
    assert attempt.wait() == 75
    assert "did not stop within restarts.grace" in attempt.status().history[-1].failure.error  # type: ignore[union-attr]
    attempt.await_end_of_all()


def test_time_limit_is_a_clean_stop(start: Start) -> None:
    attempt = start(RUNTIME_RANK, time_limit=Duration(4), grace=Duration(10))
    assert attempt.wait() == 75
    assert "stopping: the time limit is near" in attempt.log()
    assert attempt.status().state is RunState.PREEMPTED


def test_killed_rank_is_started_again_at_once(start: Start) -> None:
    attempt = start(RUNTIME_RANK, procs=2)
    attempt.await_log("ready", 2)
    began = time.monotonic()
    os.kill(attempt.pids("script.py")[-1], signal.SIGKILL)
    attempt.await_log("starting 2 ranks, restart 1")
    assert time.monotonic() - began < 30  # as long as torchrun would take
    assert attempt.wait() == 0
    assert attempt.status().history[-1].restarts == 1
    assert "was killed by SIGKILL" in attempt.log()


def test_restart_imports_torch_no_second_time(start: Start) -> None:
    attempt = start(RUNTIME_RANK, procs=2)
    attempt.await_log("ready", 2)
    (server,) = attempt.pids("fork server of")
    os.kill(attempt.pids("script.py")[-1], signal.SIGKILL)
    attempt.await_log("ready", 4)
    assert attempt.pids("fork server of") == [server]
    assert attempt.wait() == 0
    attempt.await_end_of_all()


def test_torchrun_shows_the_command_of_its_own_start(start: Start) -> None:
    attempt = start(RUNTIME_RANK, procs=2)
    attempt.await_log("ready", 2)
    (torchrun,) = attempt.pids("torch.distributed.run")
    (server,) = attempt.pids("fork server of")
    assert "AUTOLOAD=0" in Path(f"/proc/{server}/environ").read_text()
    assert "AUTOLOAD" not in Path(f"/proc/{attempt.pids('script.py')[-1]}/environ").read_text()
    os.kill(torchrun, signal.SIGKILL)
    until(lambda: bool(attempt.pids("torch.distributed.run", "-r1")), 60, attempt.log)
    assert attempt.wait() == 0
    assert attempt.status().history[-1].restarts == 1


@pytest.mark.parametrize("victims", [("guard of",), ("fork server of", "script.py")])
def test_what_was_killed_is_started_again(start: Start, victims: tuple[str, ...]) -> None:
    attempt = start(RUNTIME_RANK, procs=2)
    attempt.await_log("ready", 2)
    for victim in victims:
        os.kill(attempt.pids(victim)[-1], signal.SIGKILL)
    assert attempt.wait() == 0
    assert attempt.status().history[-1].restarts == 1
    attempt.await_end_of_all()


def test_without_room_for_a_fork_server_the_first_start_tries_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(fork_client, "ForkServer", full)
    assert fork_client.started_early() is None


def test_broken_torch_is_shown_as_it_is(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text("raise ImportError('libcudart is not there')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"), prepend=os.pathsep)
    attempt = start(RUNTIME_RANK, on_failure=0)
    assert attempt.wait() == 70
    assert "libcudart is not there" in (attempt.status().error or "")
    attempt.await_end_of_all()


def test_ranks_without_progress_show_their_stacks(start: Start) -> None:
    attempt = start(RUNTIME_RANK, watchdog=Duration(1), on_failure=0, HANG="1")
    assert attempt.wait() == 69
    assert "no rank of node 0 made progress" in (attempt.status().error or "")
    assert 'script.py", line' in attempt.log()


def test_two_nodes_start_and_stop_together(start: Start) -> None:
    attempt = start(RUNTIME_RANK, nodes=2)
    attempt.await_log("ready", 2)
    assert "[node 0 rank 0] ready" in attempt.log()
    assert "[node 1 rank 1] ready" in attempt.log()
    (other,) = attempt.pids("torchrelay_launch node", "--node 1")
    os.kill(other, signal.SIGTERM)
    assert attempt.wait() == 75
    assert attempt.log().count("saved") == 2
    attempt.await_end_of_all()


def test_failure_on_one_node_restarts_both(start: Start) -> None:
    attempt = start(RUNTIME_RANK, nodes=2)
    attempt.await_log("ready", 2)
    rank_1 = next(pid for pid in attempt.pids("script.py") if processes.environment_of(pid).get("RANK") == "1")
    os.kill(rank_1, signal.SIGKILL)
    assert attempt.wait() == 0
    assert "rank 1 (node 1) was killed by SIGKILL" in attempt.log()
    assert attempt.log().count("restart 1") >= 2


def test_lost_node_ends_the_attempt(start: Start) -> None:
    attempt = start(RUNTIME_RANK, nodes=2, grace=Duration(2))
    attempt.await_log("ready", 2)
    (other,) = attempt.pids("torchrelay_launch node", "--node 1")
    os.kill(other, signal.SIGKILL)
    assert attempt.wait() == 70
    assert attempt.status().error == "node 1 was lost: the connection to its supervisor ended"
    attempt.await_end_of_all()


def test_missing_script_is_the_users_to_fix(tmp_path: Path) -> None:
    job = JobSpec(name="t", script="nowhere.py")
    storage = create_run(str(tmp_path / "runs"), job)
    claim_attempt(storage, job, {}, "local", str(tmp_path), 0)
    argv = [sys.executable, "-m", "torchrelay_launch", "node", "--run", storage.url, "--attempt", "1"]
    ended = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 78
    assert run_status(storage).error == f"script: there is no file 'nowhere.py' in {tmp_path}"
