"""The trainer on real runs: what it computes, and that stops, restarts and world sizes do not show in the result."""

from pathlib import Path
from typing import Any

import pytest


def test_a_run_trains_evaluates_and_logs(trainer_trial: Any) -> None:
    trial = trainer_trial("a", epochs=20)
    assert trial.run() == 0
    losses = trial.losses()
    assert len(losses) == 7 * 20
    assert sum(losses[-14:]) < 0.7 * sum(losses[:14])
    assert [step for step, _ in trial.evaluations()] == [7 * epoch for epoch in range(1, 21)]
    last = trial.events("step")[-1]["metrics"]
    assert set(last) >= {"loss", "lr", "grad_norm", "samples_per_s", "data_wait_s"}
    assert last["lr"] < trial.events("step")[0]["metrics"]["lr"]


@pytest.mark.timeout(180)
def test_a_stop_in_the_middle_of_an_epoch_does_not_show(trainer_trial: Any, tmp_path: Path) -> None:
    """With dropout, augmentation from three generators, and workers that have read ahead."""
    data = {
        "train": {"target": "trainer_samples.Points", "args": {"n": 50, "noise": 0.5}},
        "val": {"target": "trainer_samples.Points", "args": {"n": 31}},
        "workers": 2,
    }
    whole = trainer_trial("whole", data=data)
    assert whole.run() == 0
    stop = {"n": 50, "noise": 0.5, "stop_at": 9, "flag": str(tmp_path / "flag")}
    parted = trainer_trial("parted", data={**data, "train": {"target": "trainer_samples.Points", "args": stop}})
    assert parted.run() == 75
    done = len(parted.losses())
    assert 0 < done < 21
    assert done % 7, "the stop is meant to come within an epoch"
    assert parted.run() == 0
    assert parted.losses() == whole.losses()
    assert parted.evaluations() == whole.evaluations()
    assert parted.digest() == whole.digest()


@pytest.mark.parametrize("at", [2, 3], ids=["in the middle", "the last one"])
def test_an_evaluation_that_a_stop_breaks_off_is_repeated_once(
    trainer_trial: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    changes: dict[str, Any] = {
        "task": "trainer_samples:StoppedInEvaluation",
        "schedule": {
            "target": "torch.optim.lr_scheduler.ReduceLROnPlateau",
            "args": {"patience": 0, "threshold": 10.0},
        },
        "early_stopping": {"metric": "val/loss", "patience": 30},
    }
    whole = trainer_trial("whole", **changes)
    assert whole.run() == 0
    monkeypatch.setenv("STOP_FLAG", str(tmp_path / "flag"))
    monkeypatch.setenv("STOP_AT", str(at))
    parted = trainer_trial("parted", **changes)
    assert parted.run() == 75
    assert [step for step, _ in parted.evaluations()] == [7, 14][: at - 1]
    assert parted.run() == 0
    assert parted.evaluations() == whole.evaluations()
    assert [step for step, _ in parted.evaluations()] == [7, 14, 21]
    assert parted.digest() == whole.digest()
    rates = [event["metrics"]["lr"] for event in parted.events("step")]
    assert rates == [event["metrics"]["lr"] for event in whole.events("step")]
    assert rates[-1] < rates[0]


@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_the_world_size_and_accumulation_do_not_change_what_is_learnt(trainer_trial: Any) -> None:
    """43 samples in batches of 7 end on a batch of 1, of which one rank has nothing; fp32 rounds differently."""
    changes: dict[str, Any] = {
        "model": {"target": "torchrelay.models.mlp", "args": {"sizes": [4, 16, 2]}},
        "optimizer": {"target": "torch.optim.SGD", "args": {"lr": 0.1, "momentum": 0.9}},
        "data": {
            "train": {"target": "trainer_samples.Points", "args": {"n": 43, "noise": 0.5}},
            "val": {"target": "trainer_samples.Points", "args": {"n": 31}},
        },
        "global_batch": 7,
        "clip_grad_norm": 0.5,
        "epochs": 2,
    }
    alone = trainer_trial("alone", **changes)
    assert alone.run() == 0
    accumulating = trainer_trial("accumulating", **changes, micro_batch=2)
    assert accumulating.run() == 0
    two = trainer_trial("two", **changes, micro_batch=3)
    two.torchrun(2)
    for other in (accumulating, two):
        assert other.losses() == pytest.approx(alone.losses(), rel=1e-4)
        for (step, metrics), (same, expected) in zip(other.evaluations(), alone.evaluations(), strict=True):
            assert step == same
            assert metrics == pytest.approx(expected, rel=1e-4)


@pytest.mark.e2e
@pytest.mark.timeout(500)
def test_three_ranks_resume_bit_for_bit(trainer_trial: Any, tmp_path: Path) -> None:
    """Sums of three numbers depend on their order, and so on how gradients lie in buckets."""

    def data(**more: Any) -> dict[str, Any]:
        return {"train": {"target": "trainer_samples.Points", "args": {"n": 50, "noise": 0.5, **more}}}

    model = {"target": "torchrelay.models.mlp", "args": {"sizes": [4, 64, 32, 16, 2], "dropout": 0.1}}
    whole = trainer_trial("whole", model=model, data=data())
    whole.torchrun(3)
    parted = trainer_trial("parted", model=model, data=data(stop_at=9, flag=str(tmp_path / "flag"), read_s=0.04))
    parted.torchrun(3, stopped=True)
    assert 0 < len(parted.losses()) < 21
    parted.torchrun(3)
    assert parted.losses() == whole.losses()
    assert parted.digest() == whole.digest()


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_ranks_evaluate_with_the_same_buffers(trainer_trial: Any) -> None:
    trial = trainer_trial("a", model={"target": "trainer_samples.normed"}, global_batch=10, epochs=1)
    trial.torchrun(2)
    assert [step for step, _ in trial.evaluations()] == [5]
    assert trial.outcome().exit_code == 0


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_learn_too(trainer_trial: Any, precision: str) -> None:
    trial = trainer_trial("a", precision=precision, epochs=8, clip_grad_norm=1.0, micro_batch=3)
    assert trial.run() == 0
    assert sum(trial.losses()[-7:]) < 0.9 * sum(trial.losses()[:7])


@pytest.mark.parametrize("per", ["step", "epoch"])
def test_schedules_advance_per_step_or_per_epoch(trainer_trial: Any, per: str) -> None:
    linear = {"target": "torch.optim.lr_scheduler.LinearLR", "per": per}
    trial = trainer_trial(
        "a", schedule={**linear, "args": {"start_factor": 1.0, "end_factor": 0.5, "total_iters": "auto"}}
    )
    assert trial.run() == 0
    rates = [event["metrics"]["lr"] / 0.01 for event in trial.events("step")]
    turns = [step if per == "step" else step // 7 for step in range(21)]
    assert rates == pytest.approx([1 - 0.5 * turn / (21 if per == "step" else 3) for turn in turns])


def test_training_ends_early_and_stays_ended(trainer_trial: Any) -> None:
    rule = {"metric": "val/loss", "mode": "min", "patience": 2}
    trial = trainer_trial("a", task="trainer_samples:WorseAndWorse", early_stopping=rule, epochs=10)
    assert trial.run() == 0
    assert [step for step, _ in trial.evaluations()] == [7, 14, 21]
    assert len(trial.losses()) == 21
    assert trial.run() == 0
    assert len(trial.losses()) == 21


def test_evaluation_at_an_interval_and_at_the_end(trainer_trial: Any) -> None:
    trial = trainer_trial("a", epochs=None, steps=10, evaluate_every="4 steps")
    assert trial.run() == 0
    assert [step for step, _ in trial.evaluations()] == [4, 8, 10]


def test_without_a_validation_set_nothing_is_evaluated(trainer_trial: Any) -> None:
    data = {"train": {"target": "trainer_samples.Points", "args": {"n": 50}}}
    trial = trainer_trial("a", data=data, epochs=1)
    assert trial.run() == 0
    assert trial.evaluations() == []


def test_a_loss_that_is_no_number_ends_the_run_with_its_step(trainer_trial: Any) -> None:
    data = {"train": {"target": "trainer_samples.Points", "args": {"n": 50, "nan_at": 9}}}
    trial = trainer_trial("a", data=data)
    assert trial.run() == 70
    failed = len(trial.losses()) + 1
    ended = trial.events("ended")
    assert ended[-1]["exit_code"] == 70
    assert 1 <= failed <= 7


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model": {"target": "torchrelay.models.mpl"}}, "did you mean torchrelay.models.mlp?"),
        ({"early_stopping": {"metric": "val/acc"}}, "evaluation gives val/loss, val/accuracy"),
        ({"evaluate_every": "5m"}, "give it in steps"),
    ],
)
def test_a_wrong_spec_ends_with_78(
    trainer_trial: Any, capsys: pytest.CaptureFixture[str], changes: dict[str, Any], says: str
) -> None:
    trial = trainer_trial("a", **changes)
    assert trial.run() == 78
    told = capsys.readouterr().err
    assert says in told
    assert "Traceback" not in told
