"""What a spec's `train:` section names, built: data sets, task, model, optimizer, schedule."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import nn
from torch.nn import functional
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from torchrelay.contract.settings import Json
from torchrelay.contract.training import Data, Target, Train
from torchrelay.data.loader import MapDataset, checked_dataset
from torchrelay.data.transforms import InOrder
from torchrelay.train import tasks
from torchrelay.train.targets import Builder, nearest, with_auto
from torchrelay.world import World

T = TypeVar("T")
_DOWNLOAD_TIMEOUT_S = 1800.0


def make_data(builder: Builder, data: Data, world: World) -> tuple[MapDataset, MapDataset | None]:
    """The training set, and the validation set if there is one.

    Collective: yes, where a data set may download
    """

    def make(target: Target, name: str) -> MapDataset:
        shared = {"root": data.root} if data.root is not None and "root" not in target.args else {}
        where = f"train.data.{name}"
        made = builder.build(target, where, **shared, **_transform(builder, data, name))
        return checked_dataset(made, where)

    def make_both() -> tuple[MapDataset, MapDataset | None]:
        return make(data.train, "train"), make(data.val, "val") if data.val else None

    downloads = any(target.args.get("download") for target in (data.train, data.val) if target)
    return one_node_and_rank_first(world, make_both) if downloads else make_both()


def _transform(builder: Builder, data: Data, name: str) -> dict[str, Any]:
    key = "val_transform" if name == "val" and data.val_transform is not None else "transform"
    wanted: list[Target] | None = getattr(data, key)
    if wanted is None:
        return {}
    return {"transform": InOrder([builder.build(one, f"train.data.{key}.{i}") for i, one in enumerate(wanted)])}


def one_node_and_rank_first(world: World, make: Callable[[], T]) -> T:
    """Call `make` on rank 0, then on one rank of each other node, then on the rest.

    So a download runs once where nodes share a file system, and once per node where they do not.
    Collective: yes
    """
    own_turn = 0 if world.is_main else 1 if world.local_rank == 0 else 2
    made: list[T] = []
    for turn in range(3):
        if turn == own_turn:
            made.append(make())
        world.barrier(_DOWNLOAD_TIMEOUT_S)
    return made[0]


def make_task(builder: Builder, spec: Train, device: torch.device) -> tasks.Task:
    """The task, given its loss. Raises: ConfigError."""
    loss = make_loss(builder, spec.loss)
    if isinstance(loss, nn.Module):
        loss = loss.to(device)
    if spec.task in tasks.BY_NAME:
        return tasks.BY_NAME[spec.task](loss)
    if "." not in spec.task and ":" not in spec.task:
        near = nearest(spec.task, list(tasks.BY_NAME))
        hint = (
            f"did you mean {near}?" if near else f"there are {', '.join(tasks.BY_NAME)}, or an import path of your own"
        )
        raise builder.error("train.task", f"there is no task {spec.task!r}; {hint}")
    make = builder.load(spec.task, "train.task")
    own = builder.build(Target(spec.task), "train.task", *([loss] if tasks.takes_loss(make) else []))
    lacking = [name for name in ("loss", "sums", "metrics") if not callable(getattr(own, name, None))]
    if lacking:
        raise builder.error("train.task", f"{spec.task} has no method {lacking[0]}; a task has loss, sums and metrics")
    return cast("tasks.Task", own)


def make_loss(builder: Builder, loss: str | Target) -> tasks.LossFunction:
    """A function of torch.nn.functional, or what a target makes. Raises: ConfigError."""
    if isinstance(loss, Target):
        made = builder.build(loss, "train.loss")
        if not callable(made):
            raise builder.error("train.loss", f"{loss.target} makes a {type(made).__name__}, which can't be called")
        return cast("tasks.LossFunction", made)
    found = getattr(functional, loss, None)
    if loss.startswith("_") or not callable(found):
        near = nearest(loss, [name for name in dir(functional) if not name.startswith("_")])
        hint = f"; did you mean {near}?" if near else ""
        raise builder.error("train.loss", f"torch.nn.functional has no {loss!r}{hint}")
    return cast("tasks.LossFunction", found)


def make_model(builder: Builder, target: Target, device: torch.device) -> nn.Module:
    """The model, on the device. Raises: ConfigError."""
    made = builder.build(target, "train.model")
    if not isinstance(made, nn.Module):
        raise builder.error("train.model", f"{target.target} makes a {type(made).__name__}, not a torch.nn.Module")
    return made.to(device)


def make_optimizer(builder: Builder, target: Target, model: nn.Module) -> Optimizer:
    """The optimizer over all parameters of the model. Raises: ConfigError."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise builder.error("train.model", "the model has no parameters to train")
    made = builder.build(target, "train.optimizer", parameters)
    if not isinstance(made, Optimizer):
        raise builder.error("train.optimizer", f"{target.target} makes a {type(made).__name__}, not an optimizer")
    return made


def make_schedule(builder: Builder, spec: Train, optimizer: Optimizer, turns: int) -> LRScheduler | None:
    """The schedule, or None. `turns` is how often it advances in the whole run: what `auto` stands for."""
    if spec.schedule is None:
        return None
    args: dict[str, Json] = with_auto(spec.schedule.args, turns)
    target = replace(Target(spec.schedule.target), args=args)
    made = builder.build(target, "train.schedule", optimizer)
    if not isinstance(made, LRScheduler):
        raise builder.error("train.schedule", f"{target.target} makes a {type(made).__name__}, not a schedule")
    return made
