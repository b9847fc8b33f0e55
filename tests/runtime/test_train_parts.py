"""What the trainer is assembled from: tasks, losses, schedules, state, precision."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.settings import from_json
from torchrelay.contract.training import EarlyStopping, Schedule, Target, Train
from torchrelay.contract.units import Interval
from torchrelay.train import assemble, devices
from torchrelay.train.prepare import check
from torchrelay.train.schedules import warmup_cosine
from torchrelay.train.state import TrainState
from torchrelay.train.targets import Builder
from torchrelay.train.tasks import Classification, LanguageModel
from torchrelay.world import World

CPU = torch.device("cpu")
BUILDER = Builder({})


class OwnTask:
    """A task without a loss of the spec's."""

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        return model(batch).mean()

    def sums(self, model: nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        return {"count": torch.tensor(len(batch))}

    def metrics(self, totals: dict[str, float]) -> dict[str, float]:
        return totals


class Half:
    """Lacks most of what a task has."""

    def __init__(self, loss: Any) -> None:
        self.given = loss

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        raise AssertionError("what lacks the rest is refused before")


def spec(**changes: Any) -> Train:
    plain: dict[str, Any] = {
        "task": "classification",
        "data": {"train": {"target": "torchrelay.data.digits.Digits", "args": {"train": True}}},
        "model": {"target": "torchrelay.models.mlp", "args": {"sizes": [64, 10]}},
        "optimizer": {"target": "torch.optim.SGD", "args": {"lr": 0.1}},
        "global_batch": 8,
        "epochs": 1,
    }
    return from_json(Train, {**plain, **changes})


def test_classification_measures_loss_and_accuracy() -> None:
    task = Classification(nn.functional.cross_entropy)
    scores = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 0.0]])
    classes = torch.tensor([0, 1, 1])
    sums = {name: value.item() for name, value in task.sums(nn.Identity(), (scores, classes)).items()}
    assert (sums["correct"], sums["count"]) == (2, 3)
    found = task.metrics(sums)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["loss"] == pytest.approx(task.loss(nn.Identity(), (scores, classes)).item())


def test_a_language_model_measures_loss_per_token_and_perplexity() -> None:
    task = LanguageModel(nn.functional.cross_entropy)
    scores = torch.zeros(2, 5, 7)
    following = torch.ones(2, 5, dtype=torch.int64)
    sums = {name: value.item() for name, value in task.sums(nn.Identity(), (scores, following)).items()}
    assert sums["count"] == 10
    assert task.metrics(sums) == pytest.approx({"loss": math.log(7), "perplexity": 7.0})
    assert task.metrics({"loss": 8000.0, "count": 10.0})["perplexity"] == math.inf


def test_tasks_by_name_and_of_ones_own() -> None:
    assert isinstance(assemble.make_task(BUILDER, spec(), CPU), Classification)
    assert isinstance(assemble.make_task(BUILDER, spec(task="lm"), CPU), LanguageModel)
    own = assemble.make_task(BUILDER, spec(task=f"{__name__}:OwnTask"), CPU)
    assert type(own).__name__ == "OwnTask"


@pytest.mark.parametrize(
    ("task", "says"),
    [
        ("clasification", "train.task: there is no task 'clasification'; did you mean classification?"),
        ("xyz", "there are classification, lm, or an import path"),
        (f"{__name__}:Half", "has no method sums; a task has loss, sums and metrics"),
        ("torch.nn.Liner", "did you mean torch.nn.Linear"),
    ],
)
def test_a_task_that_is_none_is_refused(task: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        assemble.make_task(BUILDER, spec(task=task), CPU)
    assert says in str(caught.value)


def test_losses() -> None:
    assert assemble.make_loss(BUILDER, "mse_loss") is nn.functional.mse_loss
    made = assemble.make_loss(BUILDER, Target("torch.nn.CrossEntropyLoss", {"label_smoothing": 0.1}))
    assert isinstance(made, nn.CrossEntropyLoss)
    with pytest.raises(
        ConfigError, match=r"train.loss: torch.nn.functional has no 'crossentropy'; did you mean cross_"
    ):
        assemble.make_loss(BUILDER, "crossentropy")
    with pytest.raises(ConfigError, match=r"makes a Tensor, which can't be called"):
        assemble.make_loss(BUILDER, Target("torch.ones", {"size": [1]}))


def test_what_a_target_makes_must_be_of_the_right_kind() -> None:
    with pytest.raises(ConfigError, match=r"train.model: torch.ones makes a Tensor, not a torch.nn.Module"):
        assemble.make_model(BUILDER, Target("torch.ones", {"size": [1]}), CPU)
    with pytest.raises(ConfigError, match="no parameters"):
        assemble.make_optimizer(BUILDER, Target("torch.optim.SGD", {"lr": 1}), nn.Flatten())
    with pytest.raises(ConfigError, match=r"train.optimizer: builtins.list makes a list, not an optimizer"):
        assemble.make_optimizer(BUILDER, Target("builtins.list"), nn.Linear(1, 1))
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    wrong = spec(schedule={"target": "builtins.id"})
    with pytest.raises(ConfigError, match=r"train.schedule: builtins.id makes a int, not a schedule"):
        assemble.make_schedule(BUILDER, wrong, optimizer, 10)


def test_auto_is_the_number_of_the_schedules_turns() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0)
    wanted = to = spec(schedule={"target": "torch.optim.lr_scheduler.CosineAnnealingLR", "args": {"T_max": "auto"}})
    made: Any = assemble.make_schedule(BUILDER, wanted, optimizer, 34)
    assert made.T_max == 34
    assert to.schedule == Schedule("torch.optim.lr_scheduler.CosineAnnealingLR", {"T_max": "auto"})
    assert assemble.make_schedule(BUILDER, spec(), optimizer, 34) is None


def test_data_gets_the_shared_root_and_transforms() -> None:
    class Recorder:
        def __init__(self, root: str = "", transform: Any = None) -> None:
            self.root, self.transform = root, transform

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> int:
            return index

    globals()["Recorder"] = Recorder
    target = f"{__name__}:Recorder"
    data = spec(
        data={
            "root": "shared",
            "train": {"target": target},
            "val": {"target": target, "args": {"root": "own"}},
            "transform": [{"target": "torch.nn.ReLU"}, {"target": "torch.nn.Flatten"}],
            "val_transform": [{"target": "torch.nn.ReLU"}],
        }
    ).data
    train_set, val_set = assemble.make_data(BUILDER, data, World())
    assert isinstance(train_set, Recorder)
    assert isinstance(val_set, Recorder)
    assert (train_set.root, val_set.root) == ("shared", "own")
    assert (len(train_set.transform.transforms), len(val_set.transform.transforms)) == (2, 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"epochs": None}, "train: give either epochs or steps"),
        ({"steps": 5}, "train: give either epochs or steps"),
        ({"evaluate_every": "5m"}, "train.evaluate_every: give it in steps"),
        ({"early_stopping": {"metric": "val/loss"}}, "train.early_stopping: there is no train.data.val"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        check(spec(**changes), BUILDER)
    assert Interval.parse("5 steps").steps == 5


def test_warmup_cosine() -> None:
    optimizer = torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=2.0)
    schedule = warmup_cosine(optimizer, total_steps=20, warmup_steps=4, min_lr_ratio=0.1)
    rates = []
    for _ in range(21):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[:5] == pytest.approx([0.4, 0.8, 1.2, 1.6, 2.0])
    assert rates[12] == pytest.approx(2 * 0.55)
    assert rates[20] == pytest.approx(0.2)
    assert rates[4:] == sorted(rates[4:], reverse=True)


@pytest.mark.parametrize("args", [{"warmup_steps": 20}, {"warmup_steps": -1}, {"min_lr_ratio": 2}])
def test_warmup_cosine_refuses_what_makes_no_curve(args: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        warmup_cosine(torch.optim.SGD(nn.Linear(1, 1).parameters(), lr=1.0), total_steps=20, **args)


def test_early_stopping_counts_evaluations_without_an_improvement() -> None:
    state, rule = TrainState(), EarlyStopping("val/loss", "min", 2)
    for value, stopped in [(1.0, False), (0.9, False), (0.9, False), (0.8, False), (0.9, False), (0.81, True)]:
        state.judge(rule, value)
        assert state.stopped_early is stopped
    again = TrainState()
    again.load_state_dict(state.state_dict())
    assert again == state


def test_early_stopping_on_what_should_grow() -> None:
    state, rule = TrainState(), EarlyStopping("val/accuracy", "max", 1)
    state.judge(rule, 0.5)
    state.judge(rule, math.nan)
    assert state.best == 0.5
    assert state.stopped_early


def test_batches_of_any_shape_go_to_the_device() -> None:
    from collections import namedtuple

    pair = namedtuple("pair", "a b")
    one = torch.ones(1)
    moved = devices.to_device({"x": [one, (one, "text")], "y": pair(one, 3)}, torch.device("meta"))
    assert moved["x"][0].is_meta
    assert moved["x"][1][0].is_meta
    assert moved["x"][1][1] == "text"
    assert moved["y"].a.is_meta
    assert moved["y"].b == 3


def test_a_kernel_that_is_not_deterministic_is_explained() -> None:
    text = (
        "index_thing_cuda does not have a deterministic implementation, but you set "
        "'torch.use_deterministic_algorithms(True)'. You can turn off"
    )
    with (
        pytest.raises(ConfigError, match=r"index_thing_cuda does not have .*; train.deterministic: false"),
        devices.explained(),
    ):
        raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="another"), devices.explained():
        raise RuntimeError("another")


def test_precision() -> None:
    assert not devices.Precision("fp32", CPU).scaler().is_enabled()
    assert devices.Precision("fp16", CPU).scaler().is_enabled()
    with devices.Precision("bf16", CPU).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.bfloat16
    with devices.Precision("fp32", CPU).autocast():
        assert nn.Linear(2, 2)(torch.ones(1, 2)).dtype == torch.float32
