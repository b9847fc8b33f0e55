"""What must hold between the keys of a spec, beyond each key's own type and limits.

Rules look at what could be read, so that they speak up even where other parts of the spec are broken.
"""

from typing import Any

from torchrelay.contract.training import Checkpoint
from torchrelay.contract.units import NodeCount
from torchrelay_launch.spec.decode import Decoded
from torchrelay_launch.spec.models import Resources, Restarts
from torchrelay_launch.spec.names import did_you_mean
from torchrelay_launch.spec.rules_env import check_env, literal_secrets
from torchrelay_launch.spec.rules_storage import check_storage
from torchrelay_launch.spec.rules_torchrun import check_torchrun
from torchrelay_launch.spec.scalars import Scalar
from torchrelay_launch.spec.tree import Mapping

__all__ = ["check", "literal_secrets"]

_PROGRAMS = ("train", "script", "module")
_TASKS = ("classification", "lm")


def check(found: Decoded) -> None:
    """Add the problems that single keys don't show."""
    _program(found)
    _length(found)
    _names(found)
    _metrics(found)
    _process_group(found)
    _world(found)
    _times(found)
    check_env(found)
    check_storage(found)
    check_torchrun(found)


def _program(found: Decoded) -> None:
    """One of train, script and module; `args` only with the latter two."""
    given = [key for key in _PROGRAMS if found.has(key)]
    _one_of(found, "", _PROGRAMS)
    if found.values.get("args") and "script" not in given and "module" not in given:
        found.problem(found.place("args"), "args: these go with `script` or `module`", "`train` has none; remove it")
    if "train" in given and (found.values.get("restarts.torchrun") or 0) > 0:
        text = "restarts.torchrun: the built-in trainer is restarted by `on_failure` only"
        found.problem(found.place("restarts.torchrun"), text, "remove it")


def _length(found: Decoded) -> None:
    if isinstance(found.nodes.get("train"), Mapping):
        _one_of(found, "train", ("epochs", "steps"))


def _one_of(found: Decoded, path: str, keys: tuple[str, ...]) -> None:
    """Exactly one of some keys; the later ones are in the way."""
    full = [f"{path}.{key}" if path else key for key in keys]
    given = [key for key in full if found.has(key)]
    names = f"{', '.join(f'`{key}`' for key in keys[:-1])} or `{keys[-1]}`"
    if not given and path not in found.unknown:
        prefix = f"{path}: " if path else ""
        found.problem(found.place(path), f"{prefix}expected one of {names}", "add one of them")
    for extra in given[1:]:
        first = found.place(given[0])
        short = given[0].rpartition(".")[2]
        text = f"{extra}: expected only one of {names}"
        found.problem(found.place(extra), text, f"`{short}` is at {first}; take one out, or write `{short}: null`")


def _names(found: Decoded) -> None:
    """Names that a pattern alone says too little about."""
    task = found.values.get("train.task")
    if isinstance(task, str) and task not in _TASKS and not ("." in task and _dotted(task.replace(":", ".", 1))):
        text = f"train.task: expected classification, lm or an import path such as my_pkg.tasks:MyTask, not `{task}`"
        found.problem(found.nodes["train.task"].place, text, did_you_mean(task, _TASKS))
    module = found.values.get("module")
    if isinstance(module, str) and not _dotted(module):
        hint = f"write script: {module}" if module.endswith(".py") else "such as pkg.train"
        found.problem(found.nodes["module"].place, f"module: expected a dotted module name, not `{module}`", hint)
    script = found.values.get("script")
    if isinstance(script, str) and (not script.strip() or script.startswith("-")):
        found.problem(found.nodes["script"].place, f"script: expected the path of a file, not `{script}`")


def _dotted(name: str) -> bool:
    return all(part.isidentifier() for part in name.split("."))


def _metrics(found: Decoded) -> None:
    """What needs a validation set."""
    if not found.has("train.data") or found.has("train.data.val"):
        return
    keys = ("train.early_stopping", "train.evaluate_every", "train.data.val_transform", "checkpoint.keep_best")
    for key in filter(found.has, keys):
        found.problem(found.place(key), f"{key}: there is no validation set to take it from", "add `train.data.val`")


def _process_group(found: Decoded) -> None:
    gpus = _value(found, "resources.gpus_per_node", Resources().gpus_per_node)
    procs = _value(found, "resources.procs_per_node", None)
    group = _value(found, "process_group", "auto")
    if group == "nccl" and gpus == 0:
        text = "process_group: nccl needs GPUs, and `resources.gpus_per_node` is 0"
        found.problem(found.nodes["process_group"].place, text, "write gloo, or ask for GPUs")
    if group in {"auto", "nccl"} and gpus and procs and procs > gpus:
        text = f"resources.procs_per_node: {procs} processes can't share {gpus} GPUs with nccl"
        found.problem(found.nodes["resources.procs_per_node"].place, text, f"write {gpus}, or process_group: gloo")


def _world(found: Decoded) -> None:
    """A rank that never gets a sample is a mistake."""
    batch = found.values.get("train.global_batch")
    nodes = _value(found, "resources.nodes", NodeCount(1, 1))
    gpus = _value(found, "resources.gpus_per_node", 0)
    procs = _value(found, "resources.procs_per_node", None)
    if batch is None or nodes is None or gpus is None:
        return
    ranks = nodes.minimum * (procs or max(1, gpus))
    if batch < ranks:
        text = f"train.global_batch: {batch} samples can't be shared by {ranks} ranks"
        found.problem(found.nodes["train.global_batch"].place, text, f"write {ranks} or more, or ask for fewer ranks")


def _times(found: Decoded) -> None:
    limit = _value(found, "resources.time_limit", None)
    grace = _value(found, "restarts.grace", Restarts().grace)
    if limit is not None and grace is not None and grace >= limit:
        key = "restarts.grace" if "restarts.grace" in found.values else "resources.time_limit"
        text = f"{key}: `restarts.grace` ({grace}) must be shorter than `resources.time_limit` ({limit})"
        found.problem(found.nodes[key].place, text, "otherwise the job is stopped as soon as it starts")
    if found.values.get("restarts.watchdog") == 0:
        found.problem(found.nodes["restarts.watchdog"].place, "restarts.watchdog: expected more than 0s")
    every = found.values.get("train.evaluate_every")
    if every is not None and (every.seconds is not None or every.auto):
        text = "train.evaluate_every: expected steps, since time differs from run to run"
        found.problem(found.nodes["train.evaluate_every"].place, text, "write 500 steps")
    _saving(found)
    if found.values.get("resources.memory") == 0:
        found.problem(found.nodes["resources.memory"].place, "resources.memory: expected more than 0B")


def _saving(found: Decoded) -> None:
    """What goes with `checkpoint.every: auto` only, and what cannot be `auto`."""
    keep = found.values.get("checkpoint.keep_every")
    if keep is not None and keep.auto:
        text = "checkpoint.keep_every: expected steps or a time, not `auto`"
        found.problem(found.nodes["checkpoint.keep_every"].place, text, "write 10000 steps")
    mean_time = "checkpoint.mean_time_between_failures"
    if found.values.get(mean_time) == 0:
        found.problem(found.nodes[mean_time].place, f"{mean_time}: expected more than 0s")
    every = found.values.get("checkpoint.every")
    if every is not None and every.auto:
        return
    for key, default in (("checkpoint.max_overhead", Checkpoint.max_overhead), (mean_time, None)):
        if found.values.get(key, default) != default:  # a recorded spec names every key
            text = f"{key}: this goes with `checkpoint.every: auto`"
            found.problem(found.place(key), text, "write `every: auto`, or remove it")


def _value(found: Decoded, path: str, default: Any) -> Any:
    """What is written at a path; the default if nothing is; None if it could not be read."""
    node = found.nodes.get(path)
    if node is None or (isinstance(node, Scalar) and node.null):
        return default
    return found.values.get(path)
