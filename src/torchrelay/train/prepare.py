"""Everything that training needs, made from the spec and put together for this rank."""

from collections.abc import Iterator
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import torch
from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import default_collate

from torchrelay import rng
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.training import Train
from torchrelay.data.loader import MapDataset, SeededDataset, StepSampler, make_loader
from torchrelay.data.plan import Micro, Plan
from torchrelay.data.randomness import generators_kept
from torchrelay.data.workers import DataLoader
from torchrelay.run import Run
from torchrelay.train import assemble
from torchrelay.train.devices import Precision, to_device, use_deterministic_kernels
from torchrelay.train.evaluation import Evaluator, Loading
from torchrelay.train.state import TrainState
from torchrelay.train.targets import Builder
from torchrelay.train.tasks import Task

_LARGEST_EVALUATION_BATCH = 1024


@dataclass
class Parts:
    """What a training is made of. `model` is what forwards go through; `module` is the bare model inside."""

    spec: Train
    plan: Plan
    total_steps: int
    task: Task
    module: nn.Module
    model: nn.Module
    optimizer: Optimizer
    schedule: LRScheduler | None
    scaler: GradScaler
    precision: Precision
    state: TrainState
    batches: "Batches"
    evaluator: Evaluator | None

    def tracked(self) -> dict[str, Any]:
        """What a checkpoint holds, by name."""
        parts = {"model": self.module, "optimizer": self.optimizer, "trainer": self.state}
        if self.schedule is not None:
            parts["schedule"] = self.schedule
        if self.scaler.is_enabled():
            parts["scaler"] = self.scaler
        return parts


class Batches:
    """The micro-batches of this rank, step by step, on its device; loading begins with the first step asked for."""

    def __init__(self, dataset: MapDataset, plan: Plan, last_step: int, loading: Loading, device: torch.device) -> None:
        self.dataset, self.plan, self.last_step = dataset, plan, last_step
        self.loading, self.device = loading, device
        self._loader: DataLoader[Any] | None = None
        self._iterator: Iterator[Any] = iter(())
        self._next_step = 0
        self._waited_s = 0.0

    def of(self, step: int) -> Iterator[tuple[Micro, Any, bool]]:
        """The micro-batches of a step, each with whether it is the last. Steps are asked for one after another."""
        if self._loader is None:
            self._start(step)
        assert step == self._next_step, f"step {step} was asked for, {self._next_step} is next"
        self._next_step += 1
        micros = self.plan.micro_batches(step)
        for micro in micros:
            began = perf_counter()
            batch = to_device(next(self._iterator), self.device)
            self._waited_s += perf_counter() - began
            yield micro, batch, micro is micros[-1]

    def take_wait_s(self) -> float:
        """Seconds spent waiting for data since the last call."""
        waited, self._waited_s = self._waited_s, 0.0
        return waited

    def sample(self) -> Any:
        """A batch of two samples, whose only use is its shape; leaves the loading alone."""
        seeded = SeededDataset(self.dataset, self.loading.seed)
        return to_device(default_collate(seeded.__getitems__([(0, 0), (0, len(self.dataset) - 1)])), self.device)

    def _start(self, step: int) -> None:
        sampler = StepSampler(self.plan, self.loading.seed, step, self.last_step)
        self._loader = make_loader(self.dataset, sampler, self.loading.seed, self.loading.workers, self.device)
        self._iterator, self._next_step = iter(self._loader), step


def prepare(run: Run) -> Parts:
    """All parts of the training that the run's spec describes.

    Collective: yes. Raises: ConfigError naming the setting.
    """
    spec, builder = run.train, Builder(run.attempt.sources)
    if spec is None:
        raise ConfigError("the job has no `train:` section; the built-in trainer needs one")
    check(spec, builder)
    if spec.deterministic:
        use_deterministic_kernels(run.device)
    train_set, val_set = assemble.make_data(builder, spec.data, run.world)
    plan = Plan(len(train_set), spec.global_batch, run.world_size, run.rank, spec.micro_batch)
    total_steps = plan.total_steps(spec.epochs, spec.steps)

    rng.seed_all(spec.seed)  # the same first weights everywhere
    module = assemble.make_model(builder, spec.model, run.device)
    optimizer = assemble.make_optimizer(builder, spec.optimizer, module)
    per_epoch = spec.schedule is not None and spec.schedule.per == "epoch"
    turns = -(-total_steps // plan.steps_per_epoch) if per_epoch else total_steps
    schedule = assemble.make_schedule(builder, spec, optimizer, turns)
    task = assemble.make_task(builder, spec, run.device)
    rng.seed_all(spec.seed, run.rank + 1)  # and dropout of its own on each rank

    precision = Precision(spec.precision, run.device)
    loading = Loading(plan.largest_micro_batch, spec.data.workers, spec.seed)
    return Parts(
        spec=spec,
        plan=plan,
        total_steps=total_steps,
        task=task,
        module=module,
        model=distribute(module, run),
        optimizer=optimizer,
        schedule=schedule,
        scaler=precision.scaler(),
        precision=precision,
        state=TrainState(),
        batches=Batches(train_set, plan, total_steps, loading, run.device),
        evaluator=_evaluator(run, task, precision, val_set, loading),
    )


def check(spec: Train, builder: Builder) -> None:
    """Refuse what each setting allows and all together do not. Raises: ConfigError."""
    if (spec.epochs is None) == (spec.steps is None):
        raise builder.error("train", "give either epochs or steps")
    if spec.evaluate_every is not None and spec.evaluate_every.steps is None:
        raise builder.error(
            "train.evaluate_every", "give it in steps: by the clock, a resumed run would end differently"
        )
    if spec.early_stopping is not None and spec.data.val is None:
        raise builder.error("train.early_stopping", "there is no train.data.val to measure anything on")


def distribute(module: nn.Module, run: Run) -> nn.Module:
    """The model whose backward averages gradients over ranks; the module itself when alone.

    Collective: yes
    """
    if run.world_size == 1:
        return module
    device_ids = [run.device.index] if run.device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=device_ids, gradient_as_bucket_view=True)


def settle_buckets(parts: Parts, run: Run) -> None:
    """One forward and backward for nothing, so that a gang that resumes sums gradients in the order of one that ran on.

    DistributedDataParallel arranges its gradient buckets anew after its first backward, and with more than two ranks
    the order of a sum changes its last bits.
    Collective: yes
    """
    if run.world_size <= 2:
        return
    buffers = [buffer.clone() for buffer in parts.module.buffers()]
    with generators_kept(run.device), parts.precision.autocast():
        parts.task.loss(parts.model, parts.batches.sample()).backward()  # type: ignore[no-untyped-call]
    parts.optimizer.zero_grad(set_to_none=True)
    with torch.no_grad():
        for buffer, before in zip(parts.module.buffers(), buffers, strict=True):
            buffer.copy_(before)


def _evaluator(
    run: Run, task: Task, precision: Precision, dataset: MapDataset | None, loading: Loading
) -> Evaluator | None:
    if dataset is None:
        return None
    batch = min(_LARGEST_EVALUATION_BATCH, 4 * loading.batch)  # no gradients are kept, so more fit
    return Evaluator.of(run.world, task, precision, dataset, Loading(batch, loading.workers, loading.seed))
