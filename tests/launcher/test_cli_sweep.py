"""run, resume, ls, stop and render of a sweep, on a backend that only pretends."""

import json
import os
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from torchrelay.contract import events, layout, records
from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import Failure, OutcomeRecord, RunRecord
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch import cli
from torchrelay_launch.backends.base import Command, RunRef, Submission
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.runs.sweeps import ask_to_start_no_more, find_sweep
from torchrelay_launch.spec.models import JobSpec

SPEC = """\
name: digits
train:
  task: classification
  data: {train: {target: torch.utils.data.TensorDataset}, val: {target: torch.utils.data.TensorDataset}}
  model: {target: torch.nn.Linear, args: {in_features: 1, out_features: 1}}
  optimizer: {target: torch.optim.SGD, args: {lr: 1.0e-5}}
  global_batch: 8
  steps: 100
sweep:
  grid:
    train.optimizer.args.lr: [0.1, 0.01]
    train.seed: [1, 2]
"""
GOLDEN = Path(__file__).resolve().parent.parent / "golden"
SCORES = {1: 0.5, 2: 0.9, 3: 0.8, 4: 0.7}


class Pretender:
    """A backend, and the handle of the run that it pretends to run: `happens` says what comes of it."""

    name = "local"
    backend_id = "7"
    notes = ()

    def __init__(self) -> None:
        self.happens: Callable[[Storage, int], int | None] = complete
        self.started: list[tuple[int, int]] = []  # point and attempt
        self.run = RunRef("", "", 0, "")
        self.stopped = False

    def render(self, job: JobSpec, run: RunRef) -> Submission:
        assert job.train is not None
        command = Command("node 0", ("true",), {"LR": str(job.train.optimizer.args["lr"])})
        return Submission(self.name, job, run, (command,), ())

    def submit(self, submission: Submission, *, tethered: bool) -> "Pretender":
        self.run, self.stopped = submission.run, False
        self.started.append((int(self.run.run_id[-3:]), self.run.attempt))
        return self

    def poll(self) -> int | None:
        return 75 if self.stopped else self.happens(open_storage(self.run.url), self.run.attempt)

    def stop(self) -> None:
        self.stopped = True
        outcome = OutcomeRecord(Outcome.PREEMPTED, 75, time.time(), step=10)
        open_storage(self.run.url).create(layout.attempt_file(self.run.attempt, "outcome"), records.dump(outcome))

    def kill(self) -> None:
        pytest.fail("nothing here asks for a kill")

    def detach(self) -> None:
        pytest.fail("nothing here detaches")


def complete(storage: Storage, attempt: int) -> int | None:
    score = SCORES[int(storage.url[-3:])]
    metrics: Any = [
        {"event": "started", "t": 1.0, "step": 0, "total_steps": 100},
        {"event": "evaluation", "t": 1.0, "step": 50, "metrics": {"val/accuracy": score}},
        {"event": "evaluation", "t": 1.0, "step": 100, "metrics": {"val/accuracy": score - 0.1, "val/loss": 0.25}},
    ]
    storage.append(layout.events_file(Writer(attempt)), b"".join(map(events.encode, metrics)))
    outcome = OutcomeRecord(Outcome.COMPLETED, 0, time.time(), step=100)
    storage.create(layout.attempt_file(attempt, "outcome"), records.dump(outcome))
    return 0


def test_a_run_that_diverged_comes_last(backend: "Pretender", capsys: pytest.CaptureFixture[str]) -> None:
    def diverge(storage: Storage, attempt: int) -> int | None:
        if storage.url.endswith("001"):
            event: events.Event = {
                "event": "evaluation",
                "t": 1.0,
                "step": 1,
                "metrics": {"val/accuracy": float("nan")},
            }
            storage.append(layout.events_file(Writer(attempt)), events.encode(event))
            outcome = OutcomeRecord(Outcome.COMPLETED, 0, time.time(), step=1)
            storage.create(layout.attempt_file(attempt, "outcome"), records.dump(outcome))
            return 0
        return complete(storage, attempt)

    backend.happens = diverge
    assert cli.main(["run", "job.yaml", "--quiet", "--set", "sweep.grid={train.seed: [1, 2, 3]}"]) == 0
    table = capsys.readouterr().out.split("BEST")[1]
    assert [line[27:31] for line in table.split("\n")[1:-1]] == ["-002", "-003", "-001"]


def fail_at(point: int) -> Callable[[Storage, int], int | None]:
    """What happens where this point fails and the others complete."""

    def happens(storage: Storage, attempt: int) -> int | None:
        if not storage.url.endswith(f"{point:03d}"):
            return complete(storage, attempt)
        failure = Failure("ValueError: rotten\nand more", 70, rank=0)
        outcome = OutcomeRecord(Outcome.FAILED, 70, time.time(), step=3, failure=failure)
        storage.create(layout.attempt_file(attempt, "outcome"), records.dump(outcome))
        return 70

    return happens


@pytest.fixture
def backend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pretender:
    """A backend in place of all others, and job.yaml in the current folder."""
    pretender = Pretender()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TORCHRELAY_STORAGE", raising=False)
    for module in ("planning", "sweeping"):
        monkeypatch.setattr(f"torchrelay_launch.{module}.load_backend", lambda name: pretender)
    monkeypatch.setattr("torchrelay_launch.runs.claims.time.strftime", lambda *_: "20261121-100000")
    monkeypatch.setattr("torchrelay_launch.runs.claims.os.urandom", lambda size: b"\xab\xcd" * (size // 2))
    (tmp_path / "job.yaml").write_text(SPEC)
    return pretender


SWEEP = "digits-20261121-100000-abcd"


def golden(name: str, found: str, folder: Path) -> None:
    found = re.sub(r"\d+s old", "1s old", found.replace(str(folder), "/data"))
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("TORCHRELAY_REFRESH_GOLDEN"):
        path.write_text(found)
    assert found == path.read_text(), f"{path} differs; TORCHRELAY_REFRESH_GOLDEN=1 pytest tests/launcher refreshes it"


def test_run_takes_one_point_after_another_and_ends_with_the_best_first(
    backend: Pretender, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "job.yaml"]) == 0
    captured = capsys.readouterr()
    assert backend.started == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert "\npoint 3 of 4: lr=0.01 seed=1\nrun " in captured.err
    assert f"`torchrelay ls --sweep {SWEEP}` shows this again" in captured.err
    table = captured.out[captured.out.index(f"\n{SWEEP}  ") :]
    golden("cli_ls_sweep", table, tmp_path)
    assert (tmp_path / "runs" / SWEEP / "spec.yaml").read_text() == SPEC
    storage = open_storage(str(tmp_path / "runs" / f"{SWEEP}-002"))
    record = records.read(storage, RunRecord, layout.RUN_RECORD)
    assert record is not None
    assert (record.sweep, record.point) == (SWEEP, 2)
    assert record.values == {"train.optimizer.args.lr": 0.1, "train.seed": 2}
    assert run_status(storage).history[0].record.workdir == str(tmp_path)


def test_one_that_fails_does_not_keep_the_others_from_running(
    backend: Pretender, capsys: pytest.CaptureFixture[str]
) -> None:
    backend.happens = fail_at(2)
    assert cli.main(["run", "job.yaml", "--quiet"]) == 70
    assert [point for point, _ in backend.started] == [1, 2, 3, 4]
    captured = capsys.readouterr()
    assert captured.out.endswith(f"\n\n{SWEEP}-002  failed: ValueError: rotten\n")
    assert captured.err == ""
    backend.happens = complete
    assert cli.main(["resume", SWEEP, "--quiet"]) == 0
    assert backend.started[4:] == [(2, 2)]
    assert cli.main(["resume", SWEEP]) == 0
    assert f"all runs of the sweep {SWEEP} have completed" in capsys.readouterr().err


def test_a_signal_stops_the_sweep_and_resume_goes_on_with_all_that_is_left(
    backend: Pretender, capsys: pytest.CaptureFixture[str]
) -> None:
    def terminate_at_2(storage: Storage, attempt: int) -> int | None:
        if not storage.url.endswith("002"):
            return complete(storage, attempt)
        os.kill(os.getpid(), signal.SIGTERM)
        return None

    backend.happens = terminate_at_2
    assert cli.main(["run", "job.yaml"]) == 75
    assert backend.started == [(1, 1), (2, 1)]
    assert "4 runs: 1 completed, 2 not started, 1 preempted" in capsys.readouterr().out
    backend.happens = complete
    assert cli.main(["resume", SWEEP[:12]]) == 0
    assert backend.started[2:] == [(2, 2), (3, 1), (4, 1)]
    assert "4 runs: 4 completed" in capsys.readouterr().out


def test_stop_of_a_sweep_keeps_further_points_from_starting(backend: Pretender) -> None:
    def stop_all(storage: Storage, attempt: int) -> int | None:
        if storage.url.endswith("002"):
            ask_to_start_no_more(find_sweep(SWEEP), "stop")
        return complete(storage, attempt)

    backend.happens = stop_all
    assert cli.main(["run", "job.yaml", "--quiet"]) == 75
    assert backend.started == [(1, 1), (2, 1)]
    backend.happens = complete
    assert cli.main(["resume", SWEEP, "--quiet"]) == 0
    assert backend.started[2:] == [(3, 1), (4, 1)]


def test_a_stop_that_comes_while_a_point_starts_stops_it(backend: Pretender, monkeypatch: pytest.MonkeyPatch) -> None:
    def submit(self: Pretender, submission: Submission, *, tethered: bool) -> Pretender:
        ask_to_start_no_more(find_sweep(SWEEP), "stop")
        self.run = submission.run
        return self

    monkeypatch.setattr(Pretender, "submit", submit)
    assert cli.main(["run", "job.yaml", "--quiet"]) == 75
    assert backend.stopped


def test_ls_as_json_and_among_other_runs(backend: Pretender, capsys: pytest.CaptureFixture[str]) -> None:
    backend.happens = fail_at(1)
    assert (
        cli.main(["run", "job.yaml", "--quiet", "--set", "sweep={list: [{train.seed: 1}, {train.steps: 100}]}"]) == 70
    )
    capsys.readouterr()
    assert cli.main(["ls", "--sweep", SWEEP, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sweep_id"], found["ranked_by"], found["fields"]) == (
        SWEEP,
        "val/accuracy",
        ["train.seed", "train.steps"],
    )
    best, failed = found["runs"]
    assert (best["point"], best["state"], best["values"]) == (2, "completed", {"train.steps": 100})
    assert best["best"] == {"metric": "val/accuracy", "value": 0.9, "step": 50}
    assert best["metrics"] == {"val/accuracy": 0.8, "val/loss": 0.25}
    assert (failed["state"], failed["error"], failed["best"]) == ("failed", "ValueError: rotten\nand more", None)
    assert cli.main(["ls"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.split("\n")]
    assert [f"{SWEEP}-001", "failed", "3", "-", "0s", "local", "seed=1"] in [[*row[:4], "0s", *row[5:]] for row in rows]
    assert cli.main(["describe", f"{SWEEP}-002"]) == 0
    assert re.search(rf"\nsweep +{SWEEP}, point 2: steps=100\n", capsys.readouterr().out)
    assert cli.main(["ls", "--json"]) == 0
    assert {one["sweep"] for one in json.loads(capsys.readouterr().out)} == {SWEEP}


MISTAKES = [
    (["status", SWEEP], f"{SWEEP} is a sweep, and this is about one run: name one such as {SWEEP}-001"),
    (["logs", f"runs/{SWEEP}"], f"`torchrelay ls --sweep {SWEEP}` lists them"),
    (["stop", SWEEP], f"no run of the sweep {SWEEP} is running; there is nothing to stop"),
    (["resume", SWEEP, "--set", "train.steps=7"], "--set and --from are about one run"),
    (["resume", f"{SWEEP}-001", "--set", "sweep.grid={train.seed: [1]}"], "can't become a sweep"),
    (["ls", "--sweep", "digitz"], f"there is no sweep 'digitz' in {{runs}} (there is: {SWEEP})"),
    (["ls", "--sweep", f"{SWEEP}-001"], "there is no sweep"),
    (["render", "job.yaml", "--point", "5"], "there is no point 5; the sweep has 4, from 1"),
    (["render", "job.yaml", "--point", "1", "--set", "sweep=null"], "job.yaml has no `sweep:`, so it is one run"),
]


def test_mistakes(backend: Pretender, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "job.yaml", "--quiet"]) == 0
    capsys.readouterr()
    for words, says in MISTAKES:
        assert cli.main(words) == 78, words
        assert says.format(runs=tmp_path / "runs") in capsys.readouterr().err


def test_validate_and_render(backend: Pretender, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["validate", "job.yaml"]) == 0
    assert capsys.readouterr().out == ("job.yaml: good (digits, 1 node x 1 process; a sweep of 4 runs over lr, seed)\n")
    assert cli.main(["run", "job.yaml", "--dry-run"]) == 0
    everything = capsys.readouterr().out
    assert [line for line in everything.split("\n") if line.startswith("# point")] == [
        f"# point {number} of 4: lr={lr} seed={seed}"
        for number, (lr, seed) in enumerate([(0.1, 1), (0.1, 2), (0.01, 1), (0.01, 2)], 1)
    ]
    assert cli.main(["render", "job.yaml", "--point", "3"]) == 0
    one = capsys.readouterr().out
    assert "LR=0.01" in one
    assert "LR=0.1 " not in one
    assert cli.main(["render", "job.yaml", "--point", "3", "--json"]) == 0
    (shown,) = json.loads(capsys.readouterr().out)["points"]
    assert (shown["point"], shown["run"]["run_id"]) == (3, "SWEEP_ID-003")
    assert (shown["submits"][0]["env"], shown["spec"]["sweep"]) == ({"LR": "0.01"}, None)
    assert backend.started == []


def test_a_point_that_cannot_run_here_is_named(backend: Pretender, capsys: pytest.CaptureFixture[str]) -> None:
    wanted = "sweep={grid: {resources.memory: [1MiB, 4000TiB]}}"
    assert cli.main(["run", "job.yaml", "--set", wanted]) == 78
    assert "error: point 2 (memory=4000TiB): this machine can't run the job:" in capsys.readouterr().err
    assert not Path("runs").exists()
