"""Whether a job fits into a namespace's quotas, which refuse pods, and so a job only after it was taken."""

from collections.abc import Iterator
from decimal import Decimal

from torchrelay_launch.backends.base import Finding
from torchrelay_launch.backends.kubernetes.client import Object
from torchrelay_launch.backends.kubernetes.pods import resources
from torchrelay_launch.spec.models import JobSpec

# What a quota may simply call by its resource's name; https://kubernetes.io/docs/concepts/policy/resource-quotas/
_REQUESTS = ("cpu", "memory", "ephemeral-storage")
_MUST_BE_SAID = {"cpu": "resources.cpus_per_proc", "memory": "resources.memory"}


def findings(quota: Object, job: JobSpec | None) -> Iterator[Finding]:
    """What a quota has left, and what of it is too little for the job."""
    name, status, spec = quota["metadata"]["name"], quota.get("status") or {}, quota.get("spec") or {}
    hard, used = status.get("hard") or {}, status.get("used") or {}
    parts = [f"{one} {used.get(one, '0')} of {limit}" for one, limit in hard.items()]
    yield Finding("quota", f"{name}: {', '.join(parts) or 'empty'}", ok=None)
    if job is None or spec.get("scopes") or spec.get("scopeSelector"):  # it holds for some pods only
        return
    needed, unsaid = needs(job), _unsaid(job)
    for one, limit in hard.items():
        known = f"requests.{one}" if one in _REQUESTS else one
        if known in unsaid:
            yield Finding("quota", f"{name}: pods must say their {known}: {unsaid[known]}, or a LimitRange", ok=None)
        elif needed.get(known, 0) > _amount(limit):
            yield Finding("quota", f"{name}: the job needs {needed[known]} of {one}, and {limit} is all", ok=False)
        elif needed.get(known, 0) > (left := _amount(limit) - _amount(used.get(one, "0"))):
            yield Finding("quota", f"{name}: the job needs {needed[known]} of {one}, and {left} is left now", ok=None)


def needs(job: JobSpec) -> dict[str, Decimal]:
    """What a job takes of the things that quotas count, over all of its pods, in units, cores and bytes."""
    pods, each = job.resources.nodes.minimum, resources(job)
    kind = {"job": "jobs.batch", "jobset": "jobsets.jobset.x-k8s.io", "trainjob": "trainjobs.trainer.kubeflow.org"}
    found = {"pods": Decimal(pods), "count/pods": Decimal(pods), f"count/{kind[job.kubernetes.kind]}": Decimal(1)}
    for which in ("requests", "limits"):
        found |= {f"{which}.{name}": pods * _amount(value) for name, value in each.get(which, {}).items()}
    if job.kubernetes.kind == "job":
        found |= {"services": Decimal(1), "count/services": Decimal(1)}
    return found


def _unsaid(job: JobSpec) -> dict[str, str]:
    """Requests and limits that a quota would have every pod name and this job's pods do not -> the field that does."""
    each = resources(job)
    return {
        f"{which}.{name}": field
        for which in ("requests", "limits")
        for name, field in _MUST_BE_SAID.items()
        if name not in each.get(which, {})
    }


def _amount(quantity: str) -> Decimal:
    from kubernetes.utils.quantity import parse_quantity

    return Decimal(parse_quantity(quantity))
