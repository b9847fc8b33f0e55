"""The closing summary of `run` and `resume`: how it ended, how good it is, where it is, what to type next."""

import os
import shlex

from torchrelay.contract import layout
from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.storage_options import to_environment
from torchrelay_launch.display import quantities
from torchrelay_launch.display.description import metrics_text
from torchrelay_launch.display.lines import whereabouts
from torchrelay_launch.display.naming import name_for_user, program
from torchrelay_launch.display.style import paint, paint_state
from torchrelay_launch.display.table import pairs
from torchrelay_launch.progress import Best, Progress
from torchrelay_launch.runs.status import RunStatus
from torchrelay_launch.spec.models import JobSpec

_TRACEBACK_LINES = 15


def summary(status: RunStatus, progress: Progress, job: JobSpec) -> str:
    """The whole summary; of a failure, its place and the end of its traceback come first."""
    parts = [_failure(status)] if status.error else []
    parts += [_headline(status), pairs(_facts(status, progress, job), indent="  ")]
    if commands := _next(status, job):
        parts.append("next:\n" + pairs(commands, indent="  "))
    return "\n" + "\n".join(parts)


def _headline(status: RunStatus) -> str:
    text = f"{paint_state(status.state)}  {paint(status.run_id, 'bold')}"
    if status.step is not None:
        text += f"  {quantities.steps(status.step, status.total_steps)} steps"
    last = status.history[-1] if status.history else None
    if last and last.outcome:
        text += f"  in {quantities.span(last.outcome.at - last.record.created_at)}"
        if last.restarts:
            text += f", {last.restarts} restart{'s' if last.restarts > 1 else ''}"
    return text


def _facts(status: RunStatus, progress: Progress, job: JobSpec) -> list[tuple[str, str]]:
    facts = []
    if progress.evaluation:
        facts.append(("validation", metrics_text(progress.evaluation)))
    if best := best_of(progress, job):
        facts.append(("best", f"{best.metric} {quantities.number(best.value)} at step {best.step}"))
    if progress.checkpoint_error:
        facts.append(("last save", f"failed: {progress.checkpoint_error}"))
    facts.append(("run", status.url))
    if status.checkpoint_steps:
        steps = ", ".join(str(step) for step in status.checkpoint_steps[-5:])
        facts.append(("checkpoints", f"{status.url}/{layout.CHECKPOINTS}  (step {steps})"))
    if progress.gangs:
        facts.append(("curves", f"{status.url}/{layout.TENSORBOARD}"))
    return facts


def best_of(progress: Progress, job: JobSpec) -> Best | None:
    """The best value of the metric that the job keeps the best of, else of accuracy or validation loss."""
    if keep := job.checkpoint.keep_best:
        return progress.best(keep.metric, keep.mode)
    return progress.best("val/accuracy", "max") or progress.best("val/loss", "min")


def _failure(status: RunStatus) -> str:
    failure = status.failure
    lines = [f"{paint('failed', 'red')}{whereabouts(status)}: {(status.error or '').strip()}"]
    if failure is not None and failure.traceback:
        trace = failure.traceback.rstrip().split("\n")
        cut = ["..."] if len(trace) > _TRACEBACK_LINES else []
        lines += [f"  {line}" for line in cut + trace[-_TRACEBACK_LINES:]]
    return "\n".join([*lines, ""])


def _next(status: RunStatus, job: JobSpec) -> list[tuple[str, str]]:
    """Commands that make sense now: what each is for, and the command."""
    name, torchrelay = name_for_user(status.url), program("torchrelay")
    commands = _reaching(status, job)
    failed = status.state is RunState.FAILED
    if failed:
        rank = status.failure.rank if status.failure else None
        which = f" --rank {rank}" if rank is not None else ""
        commands.append(("see what it printed", f"{torchrelay} logs {name}{which}"))
    if failed or status.state in (RunState.STOPPED, RunState.PREEMPTED):
        step = status.last_checkpoint_step
        where = "start from the beginning" if step is None else f"go on from step {step}"
        commands.append((where, f"{torchrelay} resume {name}"))
    if status.step is not None and not failed:
        commands.append(("see the curves", _tensorboard(status.url, job)))
    if not failed:
        commands.append(("see everything", f"{torchrelay} describe {name}"))
    return commands


def _reaching(status: RunStatus, job: JobSpec) -> list[tuple[str, str]]:
    """How other commands, which know no spec, come to a storage that the spec's options lead to."""
    options = to_environment(job.storage_options) if "://" in status.url else {}
    set_it = [f"{name}={shlex.quote(value)}" for name, value in options.items() if os.environ.get(name) != value]
    return [("tell this shell how to reach it", f"export {' '.join(set_it)}")] if set_it else []


def _tensorboard(url: str, job: JobSpec) -> str:
    """TensorBoard reads object storage itself, and knows S3's endpoint from the environment only."""
    endpoint = job.storage_options.get("endpoint_url")
    where = f"AWS_ENDPOINT_URL={shlex.quote(str(endpoint))} " if endpoint and url.startswith("s3") else ""
    return f"{where}{program('tensorboard')} --logdir {shlex.quote(f'{url}/{layout.TENSORBOARD}')}"
