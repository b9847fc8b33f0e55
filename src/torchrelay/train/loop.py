"""The built-in trainer's loop, from top to bottom."""

import contextlib
import logging
import math
from collections.abc import Callable

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import ReduceLROnPlateau

from torchrelay.contract.errors import ConfigError
from torchrelay.run import Run
from torchrelay.train import startup
from torchrelay.train.devices import explained
from torchrelay.train.prepare import Parts, prepare, settle_buckets

log = logging.getLogger(__name__)


def train(run: Run) -> None:
    """Train as the run's spec says, from its newest checkpoint to its last step.

    Collective: yes. Raises: ConfigError, DivergedError, Stopped.
    """
    parts = prepare(run)
    run.track(**parts.tracked())
    run.restore()
    with explained():
        settle_buckets(parts, run)
        startup.end()
        catch_up(parts, run)
        for step in run.steps(parts.total_steps):
            parts.optimizer.zero_grad(set_to_none=True)
            loss = backward(parts, step)
            run.check_finite(loss)
            mean_loss = begin_mean(loss, run) if run.log_due else None  # under way while the optimizer steps
            rate = parts.optimizer.param_groups[0]["lr"]
            norm = update(parts, measure=run.log_due)
            _, samples = parts.plan.batch(step)
            metrics = {"loss": mean_loss(), "lr": rate, **finite(grad_norm=norm)} if mean_loss else {}
            run.log(metrics, samples=samples, data_wait_s=parts.batches.take_wait_s())
            advance_schedule(parts, step + 1)
            if evaluation_due(parts, step + 1):
                evaluate(parts, run)


def backward(parts: Parts, step: int) -> torch.Tensor:
    """Gradients of a step's loss, averaged over the global batch. Returns W times this rank's part of the loss.

    Collective: yes
    """
    total: torch.Tensor | None = None
    for micro, batch, last in parts.batches.of(step):
        with contextlib.nullcontext() if last else alone(parts):
            with parts.precision.autocast():
                loss = parts.task.loss(parts.model, batch)
            if micro.weight != 1.0:  # spares the usual case two kernels
                loss = loss * micro.weight
            parts.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        total = loss.detach() if total is None else total + loss.detach()
    assert total is not None
    return total


def alone(parts: Parts) -> contextlib.AbstractContextManager[None]:
    """Within it, a backward adds to this rank's gradients and talks to nobody."""
    if isinstance(parts.model, DistributedDataParallel):
        return parts.model.no_sync()
    return contextlib.nullcontext()


def update(parts: Parts, *, measure: bool) -> torch.Tensor | float:
    """Clip, and let the optimizer step. Returns the gradients' norm before, if `measure` or clipping needs it."""
    limit = parts.spec.clip_grad_norm
    norm: torch.Tensor | float = 0.0
    if measure or limit is not None:
        parts.scaler.unscale_(parts.optimizer)
        parameters = list(parts.module.parameters())
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if limit is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    parts.scaler.step(parts.optimizer)
    parts.scaler.update()
    return norm


def begin_mean(loss: torch.Tensor, run: Run) -> Callable[[], float]:
    """The loss of the global batch, under way until it is called for.

    Collective: yes
    """
    total = run.world.begin_sum(loss)
    return lambda: float(total()) / run.world_size


def finite(**metrics: torch.Tensor | float) -> dict[str, float]:
    """Those metrics that are numbers: with fp16, gradients of a step that is left out are not."""
    return {name: float(value) for name, value in metrics.items() if math.isfinite(value)}


def advance_schedule(parts: Parts, done: int) -> None:
    """One turn of the schedule, where a step or an epoch has ended; a plateau schedule waits for an evaluation."""
    schedule, spec = parts.schedule, parts.spec.schedule
    if schedule is None or spec is None or isinstance(schedule, ReduceLROnPlateau):
        return
    if spec.per == "step" or parts.plan.ends_epoch(done):
        schedule.step()


def evaluation_due(parts: Parts, done: int) -> bool:
    """Whether to evaluate when so many steps are done: at the interval or each end of an epoch, and at the end."""
    if parts.evaluator is None or done == 0:
        return False
    every = parts.spec.evaluate_every
    regular = parts.plan.ends_epoch(done) if every is None or every.steps is None else done % every.steps == 0
    return regular or done == parts.total_steps


def catch_up(parts: Parts, run: Run) -> None:
    """Repeat the evaluation that a stop broke off, and stay ended if training had ended early.

    Collective: yes
    """
    if evaluation_due(parts, run.step) and run.evaluated_step != run.step:
        evaluate(parts, run)
    if parts.state.stopped_early:
        run.finish()


def evaluate(parts: Parts, run: Run) -> None:
    """Evaluate, and act on the result. A stop breaks it off, to be repeated after the resume.

    Collective: yes
    """
    assert parts.evaluator is not None
    metrics = parts.evaluator.evaluate(parts.module, run.should_stop)
    if metrics is None:
        return
    run.evaluated(metrics)
    act_on(parts, run, metrics)


def act_on(parts: Parts, run: Run, metrics: dict[str, float]) -> None:
    """Advance a plateau schedule, and end training if its metric has stopped improving. Raises: ConfigError."""
    rule = parts.spec.early_stopping
    if isinstance(parts.schedule, ReduceLROnPlateau):
        parts.schedule.step(value_of(metrics, rule.metric if rule else "val/loss"))
    if rule is None:
        return
    parts.state.judge(rule, value_of(metrics, rule.metric))
    if parts.state.stopped_early:
        log.info("no better %s in %d evaluations, ending early", rule.metric, rule.patience)
        run.finish()


def value_of(metrics: dict[str, float], name: str) -> float:
    """One metric of an evaluation. Raises: ConfigError naming those that there are."""
    if name not in metrics:
        raise ConfigError(f"the spec asks for the metric {name!r}, but evaluation gives {', '.join(metrics)}")
    return metrics[name]
