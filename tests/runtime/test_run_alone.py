"""`Run` in one process without a launcher: the surface a script sees."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from alone import Alone
from torch import nn

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract import events, layout, manifest, records
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import OutcomeRecord, RunRecord
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint
from torchrelay.run import Run
from torchrelay.stop import Stopped


@pytest.fixture
def storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalStorage]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHRELAY_RUN", raising=False)
    yield LocalStorage(tmp_path / "runs" / "job")
    assert not torch.distributed.is_initialized()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def steps_saved(storage: LocalStorage) -> list[int]:
    return sorted(found.step for found in manifest.committed(storage))


def outcome(storage: LocalStorage, attempt: int = 1) -> OutcomeRecord | None:
    return records.read(storage, OutcomeRecord, layout.attempt_file(attempt, "outcome"))


def kinds(storage: LocalStorage) -> list[str]:
    return [str(event["event"]) for event in events.read_all(storage)]


def train(steps: int, *, sizes: int = 3) -> list[int]:
    done = []
    with Run.attach(name="job", save_every="4 steps", log_every=2) as run:
        run.track(model=nn.Linear(sizes, 1))
        for step in run.steps(steps):
            run.log({"loss": 1.0 / (step + 1)}, samples=8)
            done.append(step)
        assert run.samples == 8 * steps
    return done


def test_it_goes_on_where_it_was(storage):
    assert train(5) == [0, 1, 2, 3, 4]
    assert train(9) == [5, 6, 7, 8]
    assert train(9) == []
    assert steps_saved(storage) == [5, 8, 9]  # 4 gave way: keep_last is 3
    assert outcome(storage, 3).outcome is Outcome.COMPLETED
    assert outcome(storage, 2).step == 9
    started = [event for event in events.read_all(storage) if event["event"] == "started"]
    assert [event["step"] for event in started] == [0, 5, 9]
    assert started[0]["resumed_from"] is None
    assert "step-000000005" in started[1]["resumed_from"]


def test_break_counts_the_step_as_done(storage):
    with Run.attach(name="job") as run:
        for step in run.steps():
            if step == 6:
                break
    assert steps_saved(storage) == [7]
    assert outcome(storage).step == 7


def test_finish_ends_after_the_step(storage):
    with Run.attach(name="job") as run:
        for step in run.steps(100):
            if step == 6:
                run.finish()
        assert run.step == 7
    assert steps_saved(storage) == [7]


def test_save_within_a_step_is_at_its_end_and_outside_at_once(storage):
    with Run.attach(name="job") as run:
        run.restore()
        run.save()
        assert steps_saved(storage) == [0]
        for step in run.steps(5):
            if step == 2:
                run.save()
                assert steps_saved(storage) == [0]
    assert steps_saved(storage) == [0, 3, 5]


def test_a_stop_saves_and_leaves_with_75(storage):
    with pytest.raises(Stopped) as stopped, Run.attach(name="job") as run:  # noqa: PT012 - the loop is the statement
        for step in run.steps(100):
            if step == 6:
                os.kill(os.getpid(), signal.SIGUSR1)
    assert stopped.value.code == 75
    assert steps_saved(storage) == [7]
    assert outcome(storage).outcome is Outcome.PREEMPTED
    assert "stopping" in kinds(storage)


def test_a_stop_that_is_swallowed_still_ends_the_run(storage):
    with pytest.raises(Stopped), Run.attach(name="job") as run:  # noqa: PT012 - the loop is the statement
        try:
            for _ in run.steps(100):
                os.kill(os.getpid(), signal.SIGTERM)
        except SystemExit:
            pass
    assert outcome(storage).outcome is Outcome.PREEMPTED


def test_should_stop_is_false_until_a_signal(storage):
    with pytest.raises(Stopped), Run.attach(name="job") as run:  # noqa: PT012 - the loop is the statement
        for _ in run.steps(100):
            assert not run.should_stop()
            os.kill(os.getpid(), signal.SIGTERM)
            assert run.should_stop()


def test_an_error_keeps_the_step_and_the_checkpoint(storage, capfd):
    with pytest.raises(SystemExit) as ended, Run.attach(name="job", save_every="2 steps") as run:  # noqa: PT012 - the loop is the statement
        for step in run.steps(100):
            if step == 5:
                raise KeyError("missing")
    assert ended.value.code == 70
    assert isinstance(ended.value.__cause__, KeyError)
    record = outcome(storage)
    assert record.outcome is Outcome.FAILED
    assert (record.failure.step, record.failure.rank) == (5, 0)
    assert record.failure.error.startswith("KeyError: 'missing'")
    assert "KeyError" in capfd.readouterr().err
    assert steps_saved(storage) == [2, 4]


def test_a_nan_is_caught_before_it_is_saved(storage, capfd):
    with pytest.raises(SystemExit) as ended, Run.attach(name="job", save_every="2 steps") as run:  # noqa: PT012 - the loop is the statement
        for step in run.steps(100):
            run.check_finite(torch.tensor(float("inf") if step == 3 else 1.0))
    assert ended.value.code == 70
    error = capfd.readouterr().err
    assert "the loss is inf at step 4 on rank 0; the newest good checkpoint is checkpoints/step-000000002" in error
    assert "Traceback" not in error
    assert not outcome(storage).failure.retryable


def test_another_model_is_refused_with_what_differs(storage, capfd):
    train(4)
    with pytest.raises(SystemExit) as ended:
        train(8, sizes=7)
    assert ended.value.code == 78
    error = capfd.readouterr().err
    assert "model/weight" in error
    assert "(1, 7)" in error
    assert "Traceback" not in error
    assert steps_saved(storage) == [4]


def test_a_checkpoint_that_no_run_has_saved_is_refused(storage, capfd):
    records.create_run(storage, RunRecord("job", "job", 0.0, "0"))
    state = {"model": nn.Linear(3, 1).state_dict(), "progress": {"epoch": 3}}
    CheckpointManager(storage, Writer(1), Alone(), Checkpoint(), {}).save(5, state, {}, {})
    with pytest.raises(SystemExit) as ended:
        train(8)
    assert ended.value.code == 78
    error = capfd.readouterr().err
    assert "checkpoints/step-000000005-a0001-r00 was not saved by torchrelay.Run" in error
    assert "Traceback" not in error


def test_what_cannot_be_tracked_is_named(storage, capfd):
    with pytest.raises(SystemExit) as ended, Run.attach(name="job") as run:
        run.track(model=3)
    assert ended.value.code == 78
    assert "track(model=...): int has no state_dict" in capfd.readouterr().err


def test_a_bad_interval_is_a_configuration_error(storage, capfd):
    with pytest.raises(SystemExit) as ended:
        Run.attach(name="job", save_every="often")
    assert ended.value.code == 78
    assert "save_every='often': expected an interval" in capfd.readouterr().err


def test_log_writes_each_interval_and_the_last_step(storage, capfd):
    with Run.attach(name="job", log_every=4) as run:
        for step in run.steps(6):
            assert run.log_due == (step in (3, 5))
            run.log({"loss": torch.tensor(0.5), "lr": 1e-3}, samples=8, data_wait_s=0.25)
    found = [event for event in events.read_all(storage) if event["event"] == "step"]
    assert [event["step"] for event in found] == [4, 6]
    assert found[0]["metrics"]["loss"] == 0.5
    assert found[0]["metrics"]["data_wait_s"] == 0.25
    lines = capfd.readouterr().err.splitlines()
    assert lines[0].startswith("step 4/6 (66 %)  loss 0.5000  lr 1.0e-03  ")


def test_metrics_go_into_the_checkpoint_of_their_step_only(storage):
    with Run.attach(name="job", save_every="2 steps") as run:
        for step in run.steps(4):
            if step == 1:
                run.evaluated({"val/loss": 0.25})
        assert run.evaluated_step == 2
    found = {one.step: manifest.read_manifest(storage, one.folder).metrics for one in manifest.committed(storage)}
    assert found == {2: {"val/loss": 0.25}, 4: {}}


def test_an_evaluation_after_the_loop_is_not_said_to_be_in_a_checkpoint_that_was_there(storage, caplog):
    with Run.attach(name="job", save_every="4 steps") as run:
        for _ in run.steps(4):
            pass
        run.save()
        run.evaluated({"val/loss": 1.0})
        run.save()
    assert "saved before this evaluation and goes without its metrics" in caplog.text
    (found,) = manifest.committed(storage)
    assert manifest.read_manifest(storage, found.folder).metrics == {}
    assert kinds(storage).count("checkpoint") == 1
    with Run.attach(name="job") as run:  # what another attempt has saved is saved anew
        run.evaluated({"val/loss": 2.0})
        run.save()
    newest = manifest.newest_committed(storage)
    assert newest is not None
    assert manifest.read_manifest(storage, newest.folder).metrics == {"val/loss": 2.0}


def test_curves_have_each_step_once_after_a_resume(storage):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def gang(last: int, fails_at: int | None) -> None:
        with Run.attach(name="job", save_every="4 steps", log_every=1) as run:
            for step in run.steps(last):
                run.log({"loss": float(step)})
                if step == fails_at:
                    raise RuntimeError

    with pytest.raises(SystemExit):
        gang(12, fails_at=6)  # steps 5 to 7 come after the checkpoint at 4, and are done again
    gang(12, fails_at=None)
    curves = EventAccumulator(str(storage.path(layout.TENSORBOARD)))
    curves.Reload()
    points = curves.Scalars("train/loss")
    assert [point.step for point in points] == list(range(1, 13))
    assert [point.value for point in points] == [float(step) for step in range(12)]


def test_a_script_under_plain_python(tmp_path):
    script = tmp_path / "my_script.py"
    script.write_text(
        "import torchrelay\n"
        "with torchrelay.Run.attach() as run:\n"
        "    for step in run.steps(3):\n"
        "        run.log({'loss': 1.0})\n"
    )
    env = {key: value for key, value in os.environ.items() if not key.startswith(("TORCHRELAY_", "RANK", "WORLD_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run_record = json.loads((tmp_path / "runs" / "my_script" / "run.json").read_text())
    assert run_record["name"] == "my_script"


def test_importing_torchrelay_does_not_import_torch():
    code = "import sys, torchrelay, torchrelay.presence; assert 'torch' not in sys.modules; torchrelay.Run; print('ok')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "ok\n", done.stderr
