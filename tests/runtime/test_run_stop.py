"""Two real ranks that are told to stop."""

import signal
import time

import pytest
import ranks

from torchrelay.contract import events, manifest
from torchrelay.contract.exit_codes import Outcome


@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGTERM), (0, signal.SIGUSR1), (1, signal.SIGINT)])
def test_a_signal_to_any_rank_stops_all_at_one_step(tmp_path, rank, number):
    run = ranks.new_run(tmp_path)
    gang = ranks.start(tmp_path / "work", "--steps", "100000", "--sleep", "0.005", env=run.environment())
    gang.wait_for(5)
    gang.signal(rank, number)
    gang.signal(rank, number)  # twice is once
    ended = gang.end()
    assert [one.code for one in ended] == [0, 0], ended
    assert {report.exit_code for report in run.ends().values()} == {75}
    assert len(run.ends()) == 2
    assert run.outcome() is Outcome.PREEMPTED
    newest = manifest.committed(run.storage)[0]
    assert newest.step == gang.step(0) == gang.step(1)
    kinds = [(event["event"], event.get("reason")) for event in events.read_all(run.storage)]
    assert ("stopping", number.name) in kinds
    assert all("after the run" not in one.out for one in ended)


def test_a_stop_is_acted_on_within_a_few_steps(tmp_path):
    run = ranks.new_run(tmp_path)
    gang = ranks.start(tmp_path / "work", "--steps", "100000", "--sleep", "0.25", env=run.environment())
    gang.wait_for(5)
    gang.signal(1, signal.SIGTERM)
    step = gang.step(1)
    gang.end()
    assert gang.step(1) - step <= 4


def test_an_evaluation_sees_the_stop_on_all_ranks(tmp_path):
    run = ranks.new_run(tmp_path)
    gang = ranks.start(tmp_path / "work", "--evaluate", env=run.environment())
    gang.wait_for(11)
    time.sleep(0.3)
    assert gang.step(0) == 11
    gang.signal(0, signal.SIGTERM)
    assert [one.code for one in gang.end()] == [0, 0]
    assert manifest.committed(run.storage)[0].step == 11


def test_a_stop_during_the_start_is_not_lost(tmp_path):
    run = ranks.new_run(tmp_path)
    gang = ranks.start(tmp_path / "work", "--steps", "100000", "--sleep", "0.005", env=run.environment())
    deadline = time.monotonic() + ranks.LIMIT_S
    while not list(run.reports_folder.glob("rank-00001.json")) and time.monotonic() < deadline:
        time.sleep(0.005)
    gang.signal(1, signal.SIGTERM)
    ended = gang.end()
    assert [one.code for one in ended] == [0, 0], ended
    assert manifest.committed(run.storage)[0].step <= 2


def test_without_a_supervisor_the_exit_code_says_it(tmp_path):
    gang = ranks.start(tmp_path, "--steps", "100000", "--sleep", "0.005")
    gang.wait_for(5)
    gang.signal(0, signal.SIGTERM)
    assert [one.code for one in gang.end()] == [75, 75]


def test_sigusr2_prints_the_stacks_and_training_goes_on(tmp_path):
    run = ranks.new_run(tmp_path)
    gang = ranks.start(tmp_path / "work", "--sleep", "0.02", env=run.environment())
    gang.wait_for(5)
    gang.signal(1, signal.SIGUSR2)
    ended = gang.end()
    assert [one.code for one in ended] == [0, 0]
    assert "most recent call first" in ended[1].err
    assert "small_training.py" in ended[1].err
    assert "most recent call first" not in ended[0].err


def test_saves_by_the_clock_are_at_one_step_on_all_ranks(tmp_path):
    run = ranks.new_run(tmp_path, every="0.2s", keep_last=100)
    gang = ranks.start(tmp_path / "work", "--steps", "100", "--sleep", "0.01", env=run.environment())
    assert [one.code for one in gang.end()] == [0, 0]
    steps = [found.step for found in manifest.committed(run.storage)]
    assert 3 <= len(steps) <= 15
    assert steps[0] == 100
