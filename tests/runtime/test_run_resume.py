"""Stopped or killed, and gone on: the same bits as a run that was left alone."""

import signal

import ranks

from torchrelay.contract import events, manifest
from torchrelay.contract.exit_codes import Outcome


def _end_of(run: ranks.Supervised) -> manifest.Digest:
    newest = manifest.committed(run.storage)[0]
    return manifest.digest(run.storage, newest.folder)


def _losses(run: ranks.Supervised) -> dict[int, float]:
    found = {}
    for event in events.read_all(run.storage):
        if event["event"] == "step":
            found[event["step"]] = event["metrics"]["loss"]
    return found


def _left_alone(folder, *arguments) -> ranks.Supervised:
    run = ranks.new_run(folder, every="10 steps")
    ended = ranks.start(folder / "work", *arguments, env=run.environment()).end()
    assert [one.code for one in ended] == [0, 0], ended
    assert all("after the run" in one.out for one in ended)
    assert run.outcome() is Outcome.COMPLETED
    return run


def test_stopped_and_killed_it_ends_as_if_left_alone(tmp_path):
    alone = _left_alone(tmp_path / "alone", "--steps", "60")
    run = ranks.new_run(tmp_path / "hunted", every="10 steps")
    work = tmp_path / "hunted" / "work"

    gang = ranks.start(work, "--steps", "60", "--sleep", "0.02", env=run.environment())
    gang.wait_for(13)
    gang.signal(0, signal.SIGTERM)
    gang.end()
    second = run.again(attempt=2)
    gang = ranks.start(work, "--steps", "60", "--sleep", "0.02", env=second.environment())
    gang.wait_for(33)
    gang.signal(1, signal.SIGKILL)
    gang.end()
    third = second.again(attempt=2, restart=1)
    ended = ranks.start(work, "--steps", "60", env=third.environment()).end()

    assert [one.code for one in ended] == [0, 0], ended
    assert third.outcome() is Outcome.COMPLETED
    assert _end_of(run) == _end_of(alone)
    assert _losses(run) == _losses(alone)
    assert sorted(_losses(run)) == list(range(5, 61, 5))


def test_the_digest_tells_other_runs_apart(tmp_path):
    longer = _left_alone(tmp_path / "longer", "--steps", "11")
    shorter = _left_alone(tmp_path / "shorter", "--steps", "10")
    assert _end_of(longer).weights != _end_of(shorter).weights


def test_it_goes_on_with_another_number_of_ranks(tmp_path):
    run = _left_alone(tmp_path, "--steps", "20")
    second = run.again(attempt=2)
    ended = ranks.start(tmp_path / "work", "--steps", "30", world_size=1, env=second.environment()).end()
    assert [one.code for one in ended] == [0], ended
    assert manifest.committed(run.storage)[0].step == 30


def test_a_run_that_is_done_has_nothing_to_do(tmp_path):
    run = _left_alone(tmp_path, "--steps", "20")
    before = _end_of(run)
    second = run.again(attempt=2)
    ended = ranks.start(tmp_path / "work", "--steps", "20", env=second.environment()).end()
    assert [one.code for one in ended] == [0, 0]
    assert second.outcome() is Outcome.COMPLETED
    assert _end_of(run) == before
