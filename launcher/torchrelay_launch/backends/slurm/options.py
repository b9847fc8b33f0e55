"""From a job to the options of sbatch and srun: pure functions.

What was looked up (sbatch(1), srun(1)) and tried in Slurm 22.05 to 26.05:

- `#SBATCH` lines know double quotes with backslash escapes, and expand nothing. A blank outside quotes ends a value.
- `--export=NIL` keeps the environment of whoever submits the script by hand out of the job record.
- From 22.05 on, srun does not take `--cpus-per-task` over from sbatch.
- `--signal=USR1@S` goes to the steps, not to the batch shell, up to a minute early. Times are whole minutes.
"""

import math
import re

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.settings import Json
from torchrelay.contract.units import Duration
from torchrelay_launch.spec.models import JobSpec

Option = tuple[str, str | None]  # long name without dashes, and value; None for a flag

# Options of `extra:` that have a place of their own in the spec, and which.
ELSEWHERE = {
    "array": "`sweep`",
    "chdir": "nothing: the job runs where it was submitted",
    "cpus-per-task": "`resources.cpus_per_proc`",
    "error": "nothing: the job's output is kept with the run",
    "export": "`env` and `secrets`",
    "export-file": "`env` and `secrets`",
    "gpus-per-node": "`resources.gpus_per_node`",
    "het-group": "nothing: all nodes of a job are alike",
    "job-name": "`name`",
    "mem": "`resources.memory`",
    "no-requeue": "`slurm.requeue: never`",
    "nodes": "`resources.nodes`",
    "ntasks": "`resources.nodes`",
    "ntasks-per-node": "`resources.procs_per_node`",
    "open-mode": "nothing: a requeued job adds to its output",
    "output": "nothing: the job's output is kept with the run",
    "parsable": "nothing",
    "signal": "`restarts.grace`",
    "test-only": "nothing: `torchrelay submit --dry-run=server` asks",
    "time": "`resources.time_limit`",
    "wait": "nothing: `torchrelay run` waits",
    "wrap": "`script`",
}
OWN_KEYS = (
    *("partition", "account", "qos", "constraint", "gres", "reservation", "dependency"),
    *("exclude", "mail_user", "mail_type", "comment"),
)


def sbatch_options(job: JobSpec, output: str) -> list[Option]:
    """All options of the job. `output`: path of the batch script's own output, which sbatch fills %j into.

    Raises: ConfigError for `extra:` options that cannot be passed on.
    """
    slurm, resources = job.slurm, job.resources
    options: list[Option] = [("job-name", job.name), ("output", output), ("open-mode", "append"), ("export", "NIL")]
    options += [(key.replace("_", "-"), getattr(slurm, key)) for key in OWN_KEYS if getattr(slurm, key) is not None]
    nodes = resources.nodes
    options.append(("nodes", f"{nodes.minimum}-{nodes.maximum}" if nodes.elastic else str(nodes.minimum)))
    options += [("ntasks-per-node", "1"), ("cpus-per-task", str(cpus_per_node(job)))]
    if resources.gpus_per_node and not slurm.gres:
        options.append(("gpus-per-node", str(resources.gpus_per_node)))
    if resources.memory is not None:
        options.append(("mem", f"{max(1, math.ceil(resources.memory / 2**20))}M"))
    if resources.time_limit is not None:
        options.append(("time", minutes(resources.time_limit)))
    options.append(("signal", f"USR1@{round(job.restarts.grace)}"))  # the partition may have a limit of its own
    options.append(("no-requeue", None) if slurm.requeue == "never" else ("requeue", None))
    return options + _extra(slurm.extra, {name for name, _ in options})


def srun_options(job: JobSpec) -> list[Option]:
    """The options of the one step: a supervisor on every node, which outlives the loss of another."""
    options: list[Option] = [
        ("ntasks-per-node", "1"),
        ("cpus-per-task", str(cpus_per_node(job))),
        ("export", "ALL"),
        ("kill-on-bad-exit", "0"),
        ("wait", str(round(job.restarts.grace) + 60)),
        ("output", "none"),  # supervisors write logs of their own; what they print is the same
    ]
    if job.slurm.container_image is not None:
        options.append(("container-image", job.slurm.container_image))
    if job.slurm.container_mounts is not None:
        options.append(("container-mounts", job.slurm.container_mounts))
    return options


def cpus_per_node(job: JobSpec) -> int:
    """CPUs of the one task that Slurm sees on each node."""
    return job.resources.world_procs_per_node * (job.resources.cpus_per_proc or 1)


def minutes(limit: Duration) -> str:
    """A time limit as Slurm takes it, rounded up to whole minutes."""
    return str(max(1, math.ceil(limit / 60)))


def quoted(option: Option) -> str:
    """An option for a `#SBATCH` line."""
    name, value = option
    if value is None:
        return f"--{name}"
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./\[\]&|*-]+", value):
        return f"--{name}={value}"
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'--{name}="{escaped}"'


def file_pattern(path: str) -> str:
    """A path for --output, in which % begins a pattern. Raises: ConfigError if it cannot be written there."""
    if re.search(r"[\x00-\x1f\x7f\\]", path):
        raise ConfigError(
            f"the folder {path!r} cannot hold a Slurm job: its name has a backslash or a control character"
        )
    return path.replace("%", "%%")


def _extra(extra: dict[str, Json], given: set[str]) -> list[Option]:
    found: list[Option] = []
    for key, value in extra.items():
        name = key.replace("_", "-")
        _check_extra(key, name, given)
        if value is None or value is False:
            continue
        if isinstance(value, dict):
            raise ConfigError(f"slurm.extra.{key}: expected text, a number, true or a list, not a mapping")
        items = value if isinstance(value, list) else [value]
        text = None if value is True else ",".join(str(item) for item in items)
        if text is not None and re.search(r"[\x00-\x1f\x7f]", text):
            raise ConfigError(f"slurm.extra.{key}: expected text of one line")
        found.append((name, text))
    return found


def _check_extra(key: str, name: str, given: set[str]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9-]*", name):
        raise ConfigError(f"slurm.extra.{key}: not the long name of an sbatch option; write it without dashes in front")
    if name in ELSEWHERE:
        raise ConfigError(f"slurm.extra.{key}: torchrelay sets this option itself; use {ELSEWHERE[name]}")
    if name in given:
        raise ConfigError(f"slurm.extra.{key}: the same as `slurm.{name.replace('-', '_')}`; take one of them out")
