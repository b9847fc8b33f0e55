"""The models of a spec's `train:` and `checkpoint:` sections, which launcher and ranks share."""

from dataclasses import dataclass
from typing import Literal

from torchrelay.contract.settings import Json, Limits, setting
from torchrelay.contract.units import Duration, Interval

AT_LEAST_0 = Limits(minimum=0)
AT_LEAST_1 = Limits(minimum=1)
IMPORT_PATH = Limits(
    pattern=r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*(\.[A-Za-z_]\w*)*",
    pattern_says="an import path such as torch.optim.Adam or my_pkg.models:Net",
)


@dataclass(frozen=True)
class Target:
    """Anything that can be imported and called: a class or function by its import path, and its keyword arguments."""

    target: str = setting(
        doc="Import path of a class or function, as in Hydra's `_target_`.",
        example="torch.optim.Adam",
        limits=IMPORT_PATH,
    )
    args: dict[str, Json] = setting(
        dict,
        doc="Keyword arguments. A value of the form {target: ..., args: ...} is built first.",
        example="{lr: 1.0e-3}",
    )


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule. `auto` as an argument's value stands for the number of its steps in the whole run."""

    target: str = setting(
        doc="Import path of a torch.optim.lr_scheduler class, or of one like it.",
        example="torch.optim.lr_scheduler.CosineAnnealingLR",
        limits=IMPORT_PATH,
    )
    args: dict[str, Json] = setting(
        dict,
        doc="Keyword arguments beside the optimizer; `auto` stands for the run's total number of schedule steps.",
        example="{T_max: auto}",
    )
    per: Literal["step", "epoch"] = setting(
        "step", doc="Whether the schedule advances once per step or once per epoch."
    )


@dataclass(frozen=True)
class Data:
    """The data sets, as map-style torch data sets."""

    train: Target = setting(
        doc="The training set.", example="{target: torchvision.datasets.MNIST, args: {root: data, train: true}}"
    )
    val: Target | None = setting(None, doc="The validation set; without one there is no evaluation.")
    root: str | None = setting(
        None,
        doc="Folder of the data; given to both data sets as `root` unless their own `args` name one.",
        example="data",
    )
    transform: list[Target] | None = setting(
        None,
        doc="Transforms of a training sample's input, in order; given to both data sets as `transform`.",
        example="[{target: torchvision.transforms.ToTensor}]",
    )
    val_transform: list[Target] | None = setting(
        None, doc="Transforms for the validation set where they differ from `transform`, say without augmentation."
    )
    workers: int = setting(
        0, doc="DataLoader worker processes per rank; 0 loads in the rank itself.", limits=AT_LEAST_0
    )


@dataclass(frozen=True)
class EarlyStopping:
    """End training when a validation metric has stopped improving."""

    metric: str = setting(doc="Name of the metric.", example="val/loss")
    mode: Literal["min", "max"] = setting("min", doc="Whether smaller or larger is better.")
    patience: int = setting(3, doc="Evaluations without an improvement before training ends.", limits=AT_LEAST_1)


@dataclass(frozen=True)
class Train:
    """The built-in trainer: a task, a model, data and how to optimise."""

    task: str = setting(doc="classification, lm, or the import path of a task of your own.", example="classification")
    data: Data = setting(doc="Where samples come from.")
    model: Target = setting(doc="The model, a torch.nn.Module.", example="{target: torchrelay.models.mlp}")
    optimizer: Target = setting(doc="The optimizer.", example="{target: torch.optim.Adam, args: {lr: 1.0e-3}}")
    global_batch: int = setting(
        doc="Samples per optimizer step, over all ranks and accumulation steps.", example="64", limits=AT_LEAST_1
    )
    seed: int = setting(0, doc="Seeds initial weights, data order, augmentation and dropout.", limits=AT_LEAST_0)
    loss: str | Target = setting(
        "cross_entropy", doc="A function of torch.nn.functional by name, or a target that makes a callable."
    )
    schedule: Schedule | None = setting(None, doc="The learning-rate schedule; without one the rate stays.")
    micro_batch: int | None = setting(
        None,
        doc="Most samples of one forward on one rank; a larger share is accumulated over several.",
        limits=AT_LEAST_1,
    )
    epochs: int | None = setting(
        None, doc="How many passes over the training set; either this or `steps`.", limits=AT_LEAST_1
    )
    steps: int | None = setting(None, doc="How many optimizer steps; either this or `epochs`.", limits=AT_LEAST_1)
    precision: Literal["fp32", "bf16", "fp16"] = setting(
        "fp32", doc="fp32, or autocast in bf16, or autocast in fp16 with a GradScaler."
    )
    clip_grad_norm: float | None = setting(
        None, doc="Largest 2-norm of all gradients together; larger ones are scaled down.", limits=Limits(minimum=0)
    )
    evaluate_every: Interval | None = setting(
        None, doc="How often to evaluate, in steps; without it at the end of every epoch.", example="500 steps"
    )
    log_every: int = setting(10, doc="Steps between two entries of metrics.", limits=AT_LEAST_1)
    early_stopping: EarlyStopping | None = setting(None, doc="End early when a metric stops improving.")
    deterministic: bool = setting(
        True, doc="Use deterministic kernels, which exact resume on GPUs needs; false may be faster there."
    )


@dataclass(frozen=True)
class KeepBest:
    """Keep the checkpoint that a metric was best at."""

    metric: str = setting(doc="Name of the metric.", example="val/loss")
    mode: Literal["min", "max"] = setting("min", doc="Whether smaller or larger is better.")


@dataclass(frozen=True)
class Checkpoint:
    """When to save, and what to keep. A checkpoint is also saved at the end and on a stop."""

    every: Interval = setting(
        lambda: Interval(seconds=300.0),
        doc="Steps or time between two checkpoints, or both, or `auto`: as often as `max_overhead` allows.",
        example="200 steps",
    )
    max_overhead: float = setting(
        0.01,
        doc="With `every: auto`, the largest part of the time that saving may cost.",
        limits=Limits(minimum=0.0001, maximum=0.5),
    )
    mean_time_between_failures: Duration | None = setting(
        None,
        doc="With `every: auto`, choose the interval that loses least at this rate of failures, whatever the overhead.",
        example="12h",
    )
    keep_last: int = setting(3, doc="How many of the newest checkpoints are kept.", limits=AT_LEAST_1)
    keep_every: Interval | None = setting(
        None,
        doc="Also keep the first checkpoint of every so many steps, or one in every so much time, for ever.",
        example="10000 steps",
    )
    keep_best: KeepBest | None = setting(None, doc="Also keep the best one by a metric.")
    on_storage_failure: Literal["continue", "stop"] = setting(
        "continue",
        doc="When a save fails because of the storage: train on and try at the next, or stop with exit code 74.",
    )
