"""run, submit and resume on a backend that only pretends: what they write, print and return."""

import dataclasses
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from torchrelay.contract import events, layout, records
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import AttemptRecord, Failure, OutcomeRecord, SpecRecord
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch import cli
from torchrelay_launch.backends.base import Command, RunRef, Submission
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.reader import SpecErrors, load_resolved, read_spec
from torchrelay_launch.spec.resolved import change_recorded, differences

SPEC = """\
name: digits
train:
  task: classification
  data: {train: {target: torch.utils.data.TensorDataset}}
  model: {target: torch.nn.Linear, args: {in_features: 1, out_features: 1}}
  optimizer: {target: torch.optim.SGD, args: {lr: 1.0e-5}}
  global_batch: 8
  steps: 100
checkpoint: {every: 10 steps}
"""


class Pretender:
    """A backend and the handle of what it pretends to run: `happens` writes what ranks and supervisors would."""

    name = "local"
    backend_id = "7"
    notes = ()

    def __init__(self) -> None:
        self.happens: Callable[[Storage, int], int | None] = complete
        self.submitted: list[tuple[RunRef, bool]] = []
        self.detached = self.stopped = False
        self.refuses = ""

    def render(self, job: JobSpec, run: RunRef) -> Submission:
        return Submission(self.name, job, run, (Command("node 0", ("true",)),), ())

    def submit(self, submission: Submission, *, tethered: bool) -> "Pretender":
        if self.refuses:
            raise ConfigError(self.refuses)
        self.submitted.append((submission.run, tethered))
        return self

    def poll(self) -> int | None:
        run = self.submitted[-1][0]
        return 75 if self.stopped else self.happens(open_storage(run.url), run.attempt)

    def stop(self) -> None:
        self.stopped = True
        run = self.submitted[-1][0]
        end(open_storage(run.url), run.attempt, OutcomeRecord(Outcome.PREEMPTED, 75, time.time(), step=10))

    def kill(self) -> None:
        pytest.fail("nothing here asks for a kill")

    def detach(self) -> None:
        self.detached = True


def end(storage: Storage, attempt: int, outcome: OutcomeRecord) -> None:
    storage.create(layout.attempt_file(attempt, "outcome"), records.dump(outcome))


def train(storage: Storage, attempt: int, last: int) -> None:
    """Events and a checkpoint of an attempt that came to step `last`."""
    common: events.Event = {"t": 1.0, "step": last, "total_steps": 100}
    written: list[events.Event] = [
        {"event": "started", **common, "step": 0},
        {"event": "evaluation", **common, "metrics": {"val/loss": 0.25}},
    ]
    storage.append(layout.events_file(Writer(attempt)), b"".join(map(events.encode, written)))
    storage.create(f"{layout.checkpoint_folder(last, Writer(attempt))}/{layout.MANIFEST}", b"{}")
    lines = b"[node 0 rank 0] \x1b[1mhello\x1b[0m\n[node 0 torchrun] Traceback\n"
    storage.append(layout.node_log(attempt, 0), lines)


def complete(storage: Storage, attempt: int) -> int | None:
    train(storage, attempt, 100)
    end(storage, attempt, OutcomeRecord(Outcome.COMPLETED, 0, time.time(), step=100))
    return 0


def fail(storage: Storage, attempt: int) -> int | None:
    train(storage, attempt, 40)
    trace = "\n".join(["Traceback (most recent call last):", *(f"  line {n}" for n in range(40)), "ValueError: rotten"])
    failure = Failure("ValueError: rotten", 70, rank=1, node=0, step=42, traceback=trace)
    end(storage, attempt, OutcomeRecord(Outcome.FAILED, 70, time.time(), step=42, failure=failure))
    return 70


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretender:
    """A backend in place of all others, and job.yaml in the current folder."""
    pretender = Pretender()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHRELAY_STORAGE", raising=False)
    monkeypatch.setattr("torchrelay_launch.planning.load_backend", lambda name: pretender)
    (tmp_path / "job.yaml").write_text(SPEC)
    return pretender


def only_run(folder: Path) -> Path:
    (run,) = (folder / "runs").iterdir()
    return run


def test_run_follows_and_sums_up(backend: Pretender, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "job.yaml", "--set", "train.log_every=5"]) == 0
    captured = capsys.readouterr()
    run = only_run(tmp_path)
    assert captured.out.startswith("[node 0 rank 0] hello\n\ncompleted  digits-")
    for part in ("100/100 steps", "val/loss 0.2500", str(run), "(step 100)", f"tensorboard --logdir {run}/tensorboard"):
        assert part in captured.out
    assert "\x1b" not in captured.out
    assert "\r" not in captured.out
    assert (run / "spec.yaml").read_text() == SPEC
    record = records.read(open_storage(str(run)), AttemptRecord, "attempts/0001/attempt.json")
    assert record is not None
    assert (record.workdir, record.resume_from) == (str(tmp_path), None)
    ((ref, tethered),) = backend.submitted
    assert (ref.url, ref.attempt, tethered) == (str(run), 1, True)
    assert ref.sources["train.log_every"].startswith("--set train.log_every")


def test_verbose_shows_what_torchrun_prints(backend: Pretender, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "job.yaml", "--verbose"]) == 0
    assert capsys.readouterr().out.startswith("[node 0 rank 0] hello\n[node 0 torchrun] Traceback\n")


def test_a_failure_comes_first_with_its_rank_and_the_end_of_its_traceback(
    backend: Pretender, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.happens = fail
    assert cli.main(["run", "job.yaml", "--quiet"]) == 70
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.startswith("\nfailed on rank 1 of node 0 at step 42: ValueError: rotten\n  ...\n")
    assert "line 39" in captured.out
    assert "line 3\n" not in captured.out
    assert "--rank 1" in captured.out
    assert "go on from step 40" in captured.out


def test_sigterm_to_the_launcher_stops_the_run(backend: Pretender, capsys: pytest.CaptureFixture[str]) -> None:
    def terminate(storage: Storage, attempt: int) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    backend.happens = terminate
    assert cli.main(["run", "job.yaml"]) == 75
    captured = capsys.readouterr()
    assert "saving a checkpoint" in captured.err
    assert "preempted" in captured.out


def test_submit_prints_the_url_alone(backend: Pretender, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["submit", "job.yaml", "--storage", "elsewhere"]) == 0
    captured = capsys.readouterr()
    (run,) = (tmp_path / "elsewhere").iterdir()
    assert captured.out == f"{run}\n"
    assert f"torchrelay logs {run} -f" in captured.err
    assert backend.detached
    assert backend.submitted[0][1] is False


def test_a_start_that_is_refused_leaves_a_failed_run_and_not_one_that_seems_to_start(
    backend: Pretender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.refuses = "no such partition"
    assert cli.main(["run", "job.yaml"]) == 78
    assert "no such partition" in capsys.readouterr().err
    assert cli.main(["status", only_run(tmp_path).name]) == 0
    out = capsys.readouterr().out
    assert RunState.FAILED in out
    assert "no such partition" in out


def resumed(folder: Path) -> AttemptRecord:
    record = records.read(open_storage(str(only_run(folder))), AttemptRecord, "attempts/0002/attempt.json")
    assert record is not None
    return record


def test_resume_starts_the_next_attempt_with_the_recorded_spec(
    backend: Pretender, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.happens = fail
    cli.main(["run", "job.yaml", "--set", "train.log_every=5"])
    (tmp_path / "job.yaml").unlink()
    (tmp_path / "other").mkdir()
    run = only_run(tmp_path)
    monkeypatch.chdir(tmp_path / "other")
    backend.happens = complete
    capsys.readouterr()
    assert cli.main(["resume", str(run), "--set", "train.optimizer.args.lr=0.5"]) == 0
    captured = capsys.readouterr()
    assert "changed: train.optimizer.args.lr: 1e-05 -> 0.5" in captured.err
    assert captured.err.count("changed:") == 1
    assert resumed(tmp_path).workdir == str(tmp_path)
    spec = records.read(open_storage(str(run)), SpecRecord, "attempts/0002/spec.json")
    assert spec is not None
    job = load_resolved(spec.spec)
    assert job.train is not None
    assert (job.train.log_every, job.train.optimizer.args) == (5, {"lr": 0.5})
    assert spec.sources["train.optimizer.args.lr"] == "--set train.optimizer.args.lr"
    assert spec.sources["train.global_batch"].startswith("job.yaml:")


def test_resume_from_a_step_is_recorded_and_leaves_later_checkpoints_behind(
    backend: Pretender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["run", "job.yaml"])
    storage = open_storage(str(only_run(tmp_path)))
    storage.create(f"{layout.checkpoint_folder(50, Writer(1))}/{layout.MANIFEST}", b"{}")
    assert cli.main(["resume", "digits", "--from", "50", "--detach"]) == 0
    assert resumed(tmp_path).resume_from == 50
    assert backend.detached
    capsys.readouterr()
    cli.main(["status", "digits", "--json"])
    assert '"last_checkpoint_step": 50' in capsys.readouterr().out


@pytest.mark.parametrize(("change", "attempts"), [("train.steps=200", 2), ("train.steps=50", 1)])
def test_a_completed_run_goes_on_only_when_it_is_made_longer(
    backend: Pretender, tmp_path: Path, change: str, attempts: int
) -> None:
    cli.main(["run", "job.yaml"])
    assert cli.main(["resume", "digits", "--set", change]) == 0
    assert len(list(only_run(tmp_path).glob("attempts/*"))) == attempts


def test_of_two_resumes_at_once_one_is_told(
    backend: Pretender, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backend.happens = fail
    cli.main(["run", "job.yaml"])
    storage = open_storage(str(only_run(tmp_path)))
    first = records.read(storage, AttemptRecord, "attempts/0001/attempt.json")
    assert first is not None

    def other_is_faster(job: JobSpec, run: RunRef) -> Submission:
        other = dataclasses.replace(first, number=2, host="other-host")
        storage.create("attempts/0002/attempt.json", records.dump(other))
        return Pretender.render(backend, job, run)

    monkeypatch.setattr(backend, "render", other_is_faster)
    assert cli.main(["resume", "digits"]) == 78
    assert "other-host" in capsys.readouterr().err


def recorded(tmp_path: Path) -> SpecRecord:
    (tmp_path / "job.yaml").write_text(SPEC)
    loaded = read_spec(str(tmp_path / "job.yaml"))
    from torchrelay.contract.settings import to_json

    values = to_json(loaded.job)
    assert isinstance(values, dict)
    return SpecRecord(values, loaded.sources)


def test_a_recorded_spec_comes_back_the_same_also_through_a_change(tmp_path: Path) -> None:
    record = recorded(tmp_path)
    same = change_recorded(record, [])
    changed = change_recorded(record, ["train.steps=100"])
    assert same.job == changed.job


def test_a_change_that_does_not_fit_names_itself(tmp_path: Path) -> None:
    with pytest.raises(SpecErrors, match=r"--set train\.steps"):
        change_recorded(recorded(tmp_path), ["train.steps=-1"])


def test_differences_name_what_changed() -> None:
    old, new = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 3, "c": [1]}, "e": None, "f": 4}
    assert list(differences(old, new)) == [("a.b", 1, 3), ("d", 2, None), ("f", None, 4)]
