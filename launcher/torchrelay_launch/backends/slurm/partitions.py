"""Partitions: which there are, and what each allows."""

from collections.abc import Collection, Mapping

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.slurm import client
from torchrelay_launch.spec.models import JobSpec


def check(job: JobSpec) -> None:
    """What sbatch would take and then leave in the queue for ever. Raises: ConfigError, SchedulerError."""
    known = client.partitions()
    for name in (job.slurm.partition or default(known)).split(","):
        fields = known.get(name, {})
        if name and not fields:
            raise ConfigError(_no_such(name, known))
        total = fields.get("TotalNodes", "")
        if total.isdigit() and job.resources.nodes.minimum > int(total):
            raise ConfigError(
                f"resources.nodes: partition {name} has only {total} nodes, {job.resources.nodes} are asked for"
            )
        most = minutes(fields.get("MaxTime", ""))
        limit = job.resources.time_limit
        if most is not None and limit is not None and limit > most * 60:
            raise ConfigError(
                f"resources.time_limit: partition {name} allows at most {fields['MaxTime']} per job, not {limit}; "
                "a longer run goes on by itself in further jobs, so a shorter limit is enough"
            )
        nodes = fields.get("MaxNodes", "")
        if nodes.isdigit() and job.resources.nodes.minimum > int(nodes):
            raise ConfigError(f"resources.nodes: partition {name} allows at most {nodes} nodes per job")


def minutes(text: str) -> int | None:
    """Minutes of a time as scontrol prints it, such as 1-00:00:00; None for UNLIMITED."""
    days, _, clock = text.rpartition("-")
    try:
        hours, mins, seconds = (int(part) for part in clock.split(":"))
        return int(days or 0) * 1440 + hours * 60 + mins + (seconds > 0)
    except ValueError:
        return None


def default(known: Mapping[str, Mapping[str, str]]) -> str:
    """The partition of jobs that name none, or nothing if each must name one."""
    return next((name for name, fields in known.items() if fields.get("Default") == "YES"), "")


def _no_such(name: str, known: Collection[str]) -> str:
    from torchrelay_launch.spec.names import did_you_mean

    return f"slurm.partition: there is no partition {name!r} here; {did_you_mean(name, known) or ', '.join(known)}"
