"""Real ranks that fail, each in its own way: what they report, how they exit, what they leave."""

import json
import signal
import time

import ranks

from torchrelay.contract import layout, manifest
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.layout import Writer


def test_a_killed_rank_makes_the_other_leave_at_once(tmp_path):
    run = ranks.new_run(tmp_path)
    gang = ranks.start(tmp_path / "work", "--steps", "100000", "--sleep", "0.005", env=run.environment())
    gang.wait_for(5)
    gang.signal(1, signal.SIGKILL)
    began = time.monotonic()
    ended = gang.end()
    assert time.monotonic() - began < 30  # what a rank gives a save that is under way; its peer's part will never come
    assert [one.code for one in ended] == [70, -signal.SIGKILL], ended
    failure = run.ends()[0].failure
    assert failure.peer_lost
    assert failure.retryable
    assert failure.error.startswith("lost contact with another rank")
    assert "Traceback" not in ended[0].err
    assert run.outcome() is None  # the supervisor's to write


def test_a_nan_names_step_rank_and_the_last_good_checkpoint(tmp_path):
    run = ranks.new_run(tmp_path, every="10 steps")
    gang = ranks.start(tmp_path / "work", "--fault", "nan@1:25", env=run.environment())
    ended = gang.end()
    assert [one.code for one in ended] == [70, 70], ended
    failure = run.ends()[1].failure
    assert "the loss is nan at step 26 on rank 1" in failure.error
    assert "step-000000020" in failure.error
    assert not failure.retryable
    assert failure.traceback == ""
    assert run.ends()[0].failure.peer_lost
    assert run.ends()[1].at < run.ends()[0].at
    assert manifest.committed(run.storage)[0].step == 20


def test_the_users_exception_is_reported_with_its_line(tmp_path):
    run = ranks.new_run(tmp_path)
    ended = ranks.start(tmp_path / "work", "--fault", "raise@0:3", env=run.environment()).end()
    assert [one.code for one in ended] == [70, 70]
    failure = run.ends()[0].failure
    assert failure.error.startswith("ValueError: a mistake of the user's (")
    assert "small_training.py:" in failure.error
    assert (failure.rank, failure.node, failure.step, failure.peer_lost) == (0, 0, 3, False)
    assert "raise ValueError" in failure.traceback
    assert "ValueError: a mistake of the user's" in ended[0].err


def test_the_users_exit_code_is_kept(tmp_path):
    run = ranks.new_run(tmp_path)
    ended = ranks.start(tmp_path / "work", "--fault", "exit@0:3", world_size=1, env=run.environment()).end()
    assert [one.code for one in ended] == [3]
    assert run.ends()[0].exit_code == 3


def test_a_gang_that_was_superseded_before_it_began_writes_nothing(tmp_path):
    run = ranks.new_run(tmp_path)
    newer = run.again(attempt=2)
    newer.storage.create(layout.restart_file(Writer(2)), b"{}")
    before = sorted(path for path in tmp_path.joinpath("run").rglob("*"))
    ended = ranks.start(tmp_path / "work", env=run.environment()).end()
    assert [one.code for one in ended] == [76, 76], ended
    assert all("attempt 2" in one.err and "Traceback" not in one.err for one in ended)
    assert sorted(path for path in tmp_path.joinpath("run").rglob("*")) == before


def test_a_gang_that_is_superseded_while_it_trains_stops_at_its_next_save(tmp_path):
    run = ranks.new_run(tmp_path, every="10 steps")
    gang = ranks.start(tmp_path / "work", "--steps", "100000", "--sleep", "0.005", env=run.environment())
    gang.wait_for(12)
    deadline = time.monotonic() + ranks.LIMIT_S
    while not manifest.committed(run.storage) and time.monotonic() < deadline:
        time.sleep(0.01)  # the save of step 10 goes on beside the steps
    newer = run.again(attempt=2)
    newer.storage.create(layout.restart_file(Writer(2)), b"{}")
    committed = manifest.committed(run.storage)[0].step
    ended = gang.end()
    assert [one.code for one in ended] == [76, 76], ended
    assert manifest.committed(run.storage)[0].step <= committed + 10  # one may have been under way
    assert run.outcome() is None


def test_the_same_restart_cannot_be_claimed_twice(tmp_path):
    run = ranks.new_run(tmp_path)
    run.storage.create(layout.restart_file(run.writer), b"{}")
    ended = ranks.start(tmp_path / "work", world_size=1, env=run.environment()).end()
    assert [one.code for one in ended] == [76]


def test_nccl_without_a_gpu_is_a_mistake_in_the_spec(tmp_path):
    run = ranks.new_run(tmp_path)
    path = tmp_path / "run" / layout.attempt_file(1, "spec")
    record = json.loads(path.read_text())
    record["spec"]["process_group"] = "nccl"
    path.write_text(json.dumps(record))
    ended = ranks.start(tmp_path / "work", env=run.environment()).end()
    assert [one.code for one in ended] == [78, 78]
    assert all("process_group: nccl needs GPUs" in one.err and "Traceback" not in one.err for one in ended)
    assert not run.ends()[0].failure.retryable


def test_a_storage_that_cannot_be_written_at_the_start(tmp_path):
    tmp_path.joinpath("runs").write_text("a file where a folder should be")
    ended = ranks.start(tmp_path).end()
    assert [one.code for one in ended] == [74, 74], ended
    assert all("is a file" in one.err and "Traceback" not in one.err for one in ended)


def test_a_save_that_fails_does_not_end_the_training(tmp_path):
    run = ranks.new_run(tmp_path, every="10 steps")
    gang = ranks.start(tmp_path / "work", "--steps", "60", "--sleep", "0.02", env=run.environment())
    gang.wait_for(11)
    checkpoints, aside = tmp_path / "run" / layout.CHECKPOINTS, tmp_path / "aside"
    checkpoints.rename(aside)
    checkpoints.write_text("in the way")
    gang.wait_for(31)
    checkpoints.unlink()
    aside.rename(checkpoints)
    ended = gang.end()
    assert [one.code for one in ended] == [0, 0], ended
    assert ["training goes on" in one.err for one in ended] == [True, False]  # rank 0 says it for all
    steps = [found.step for found in manifest.committed(run.storage)]
    assert steps[0] == 60
    assert "checkpoint_failed" in run.storage.read(layout.events_file(run.writer)).decode()
    assert run.outcome() is Outcome.COMPLETED


def test_a_last_save_that_fails_ends_with_74(tmp_path):
    run = ranks.new_run(tmp_path)
    gang = ranks.start(tmp_path / "work", "--steps", "60", "--sleep", "0.02", env=run.environment())
    gang.wait_for(11)
    tmp_path.joinpath("run", layout.CHECKPOINTS).write_text("in the way")
    ended = gang.end()
    assert [one.code for one in ended] == [74, 74], ended
    assert "trying once more" in ended[0].err
    assert run.ends()[0].failure.retryable
