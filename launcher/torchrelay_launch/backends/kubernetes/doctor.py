"""What `torchrelay doctor --on kubernetes` looks at: the way to the cluster, rights, and what is installed there."""

import re
from collections.abc import Callable, Iterator

from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay_launch.backends.base import Finding
from torchrelay_launch.backends.kubernetes import quotas
from torchrelay_launch.backends.kubernetes.client import Api, Object, connect
from torchrelay_launch.spec.models import JobSpec, Kubernetes

OLDEST = (1, 31)  # podFailurePolicy is stable since then, and successPolicy on by default
# (API group, resource, verbs) as in k8s/rbac.yaml
ALWAYS = (
    ("batch", "jobs", "create get delete patch"),
    ("", "services", "create"),
    ("", "pods", "list"),
    ("", "pods/log", "get"),
    ("", "events", "list"),
)
KINDS = {"jobset": ("jobset.x-k8s.io", "jobsets"), "trainjob": ("trainer.kubeflow.org", "trainjobs")}
INSTALLABLE = {"JobSet": "jobset.x-k8s.io", "Kubeflow Trainer": "trainer.kubeflow.org", "Kueue": "kueue.x-k8s.io"}


def examine(job: JobSpec | None, _storage_url: str) -> Iterator[Finding]:
    """Look at everything that a job needs, or any job if none is given. Does not change the cluster."""
    options = job.kubernetes if job else Kubernetes()
    try:
        api = connect(options)
        version = api.call("GET", "/version")
    except TorchrelayError as error:
        yield Finding("cluster", str(error), ok=False)
        return
    yield _version(version)
    yield Finding("namespace", api.namespace, ok=True)
    for check in (_rights, _installed, _queue, _quota, _gpus):
        try:
            yield from check(api, job, options)
        except TorchrelayError as error:
            yield Finding(check.__name__.strip("_"), str(error), ok=None)
    yield from _image(options)


def probe(job: JobSpec | None, storage_url: str, _say: Callable[[str], None]) -> Iterator[Finding]:
    """Look from a pod like the job's. Raises: ConfigError without a job, which names the image."""
    if job is None:
        raise ConfigError("--probe starts a pod like a job's: name the job's spec, such as jobs/kubernetes.yaml")
    from torchrelay_launch.backends.kubernetes import probing

    yield from probing.probe(job, storage_url)


def _version(version: Object) -> Finding:
    numbers = tuple(int(re.sub(r"\D", "", str(version.get(part, "0"))) or 0) for part in ("major", "minor"))
    text = f"Kubernetes {version.get('gitVersion', '.'.join(map(str, numbers)))}"
    if numbers >= OLDEST:
        return Finding("version", text, ok=True)
    return Finding(
        "version", f"{text} is older than {OLDEST[0]}.{OLDEST[1]}, which has podFailurePolicy for good", ok=False
    )


def _rights(api: Api, _job: JobSpec | None, options: Kubernetes) -> Iterator[Finding]:
    wanted = list(ALWAYS)
    if options.kind in KINDS:
        wanted.append((*KINDS[options.kind], "create get delete"))
    if options.create_secret:
        wanted.append(("", "secrets", "create"))
    if options.queue:
        wanted += [("kueue.x-k8s.io", "workloads", "list"), ("kueue.x-k8s.io", "localqueues", "list")]
    for group, resource, verbs in wanted:
        refused = [verb for verb in verbs.split() if not _may(api, verb, group, resource)]
        what = f"{verbs.replace(' ', ', ')} {resource}"
        if refused:
            rule = f'{{apiGroups: ["{group}"], resources: [{resource}], verbs: [{", ".join(refused)}]}}'
            yield Finding("rights", f"not allowed to {', '.join(refused)} {resource}: add the rule {rule}", ok=False)
        else:
            yield Finding("rights", what, ok=True)


def _may(api: Api, verb: str, group: str, resource: str) -> bool:
    resource, _, below = resource.partition("/")
    asked = {"namespace": api.namespace, "verb": verb, "group": group, "resource": resource, "subresource": below}
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": asked},
    }
    answer = api.call("POST", "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", review)
    return bool((answer.get("status") or {}).get("allowed"))


def _installed(api: Api, _job: JobSpec | None, options: Kubernetes) -> Iterator[Finding]:
    groups = {one["name"] for one in api.call("GET", "/apis").get("groups") or []}
    needed = {KINDS[options.kind][0]} if options.kind in KINDS else set()
    needed |= {"kueue.x-k8s.io"} if options.queue else set()
    for product, group in INSTALLABLE.items():
        if group in groups:
            yield Finding("installed", product, ok=True)
        else:
            yield Finding("installed", f"{product} is not installed", ok=False if group in needed else None)


def _queue(api: Api, _job: JobSpec | None, options: Kubernetes) -> Iterator[Finding]:
    if options.queue is None:
        return
    there = [one["metadata"]["name"] for one in api.list("LocalQueue")]
    if options.queue in there:
        yield Finding("queue", options.queue, ok=True)
    else:
        yield Finding("queue", f"there is no queue {options.queue!r}; there is: {', '.join(there) or 'none'}", ok=False)


def _quota(api: Api, job: JobSpec | None, _options: Kubernetes) -> Iterator[Finding]:
    for quota in api.list("ResourceQuota"):
        yield from quotas.findings(quota, job)


def _gpus(api: Api, job: JobSpec | None, options: Kubernetes) -> Iterator[Finding]:
    wanted = job.resources.gpus_per_node if job else 0
    if not wanted:
        return
    try:
        nodes = api.call("GET", "/api/v1/nodes").get("items") or []
    except ConfigError:
        yield Finding("gpus", "nodes may not be listed, so nothing is known of their GPUs", ok=None)
        return
    counts = [int((one["status"].get("allocatable") or {}).get(options.gpu_resource, "0")) for one in nodes]
    fitting = sum(count >= wanted for count in counts)
    places, needed = sum(count // wanted for count in counts), job.resources.nodes.minimum if job else 1
    text = f"{fitting} of {len(nodes)} nodes have {wanted} of {options.gpu_resource}, places for {places} pods; "
    enough = True if places >= needed else None if places else False  # a cluster that has some may grow
    yield Finding("gpus", f"{text}the job needs {needed}", ok=enough)


def _image(options: Kubernetes) -> Iterator[Finding]:
    if options.image is None:
        yield Finding("image", "kubernetes.image is not set: build one from k8s/Dockerfile", ok=False)
    else:
        yield Finding("image", options.image, ok=None)
