"""Partitions: which there are, and what each allows."""

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.slurm import client
from torchrelay_launch.spec.models import JobSpec


def check(job: JobSpec) -> None:
    """What sbatch would take and then leave in the queue for ever. Raises: ConfigError, SchedulerError."""
    for name in (job.slurm.partition or default()).split(","):
        fields = client.show("partition", name) if name else {}
        if name and not fields:
            raise ConfigError(no_such(name))
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


def default() -> str:
    """The partition of jobs that name none, or nothing if each must name one."""
    lines = client.call("sinfo", "--noheader", "--format=%P").split()
    return next((line.rstrip("*") for line in lines if line.endswith("*")), "")


def no_such(name: str) -> str:
    from torchrelay_launch.spec.names import did_you_mean

    known = client.call("sinfo", "--noheader", "--format=%R").split()
    return f"slurm.partition: there is no partition {name!r} here; {did_you_mean(name, set(known)) or ', '.join(known)}"
