"""From a job to the objects that are created for it: base manifests from k8s/, filled by structure.

Pure, but for reading them.
"""

import copy
from collections.abc import Callable
from typing import cast

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.base import RunRef
from torchrelay_launch.backends.kubernetes import code, names, pods, reach
from torchrelay_launch.backends.kubernetes.merge import merged
from torchrelay_launch.backends.kubernetes.pods import Object, Place
from torchrelay_launch.shipped import shipped_file
from torchrelay_launch.spec.models import JobSpec, Kubernetes, Restarts

REPLICATED = "node"  # name of the one replicated job of a JobSet
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
QUEUE_PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
# Fields that a TrainJob leaves to its runtime.
_RUNTIME_DECIDES = (
    "backoff_limit",
    "capabilities",
    "env_from",
    "host_network",
    "image_pull_policy",
    "priority_class",
    "run_as_user",
    "shm_size",
    "topology_spread",
    "ttl",
)


def render(job: JobSpec, run: RunRef) -> list[Object]:
    """The objects, in the order in which they are created. Raises: ConfigError for a job that cannot run there."""
    check(job, run)
    made = _KINDS[job.kubernetes.kind](job, run, place_of(job, run))
    kinds = [one["kind"] for one in made]
    for patch in job.kubernetes.patch:
        if patch.get("kind", kinds[-1]) not in kinds:
            raise ConfigError(f"kubernetes.patch: there is no {patch['kind']} to patch; there is: {', '.join(kinds)}")
    return [_patched(one, job) for one in made]


def place_of(job: JobSpec, run: RunRef) -> Place:
    """Names of an attempt's pods."""
    name = names.object_name(run.run_id, run.attempt)
    first = f"{name}-0" if job.kubernetes.kind == "job" else f"{name}-{REPLICATED}-0-0"
    return Place(name, f"{first}.{name}", code.snapshot_file(run.attempt) if job.code == "snapshot" else None)


def check(job: JobSpec, run: RunRef) -> None:
    """Raises: ConfigError."""
    options = job.kubernetes
    if not options.image:
        raise ConfigError(
            "kubernetes.image: no image is named; build one from k8s/Dockerfile and set kubernetes.image to it"
        )
    reach.check_storage(job, run.url)
    if job.secrets and not options.secret and not options.create_secret:
        raise ConfigError(
            f"secrets: pods get {', '.join(job.secrets)} from a Secret: name one that exists with kubernetes.secret or "
            "let torchrelay make one from this shell with kubernetes.create_secret: true"
        )
    if job.resources.nodes.elastic and options.kind != "job":
        raise ConfigError(f"resources.nodes: {job.resources.nodes} is elastic, which needs kubernetes.kind: job")


def not_honoured(job: JobSpec) -> list[str]:
    """Fields of the spec that have no effect, or not always."""
    options, plain = job.kubernetes, Kubernetes()
    found = []
    if options.kind == "trainjob":
        changed = [name for name in _RUNTIME_DECIDES if getattr(options, name) != getattr(plain, name)]
        found += [f"kubernetes.{name}: the runtime of a TrainJob decides it" for name in changed]
        if job.restarts.grace != Restarts().grace:
            found.append("restarts.grace: before Kubeflow Trainer 2.3 the runtime of a TrainJob decides it")
    elif options.capabilities and options.run_as_user != 0:
        found.append("kubernetes.capabilities: only root has them in force, which takes kubernetes.run_as_user: 0")
    if options.queue is None and options.queue_priority is not None:
        found.append("kubernetes.queue_priority: there is no kubernetes.queue")
    own = [key for key in options.labels if key in names.OWN_LABELS]
    found += [f"kubernetes.labels: {key} is torchrelay's own" for key in own]
    return found


def secret_name(job: JobSpec, place: Place) -> str:
    """The Secret that holds the values of `secrets:`."""
    return job.kubernetes.secret or f"{place.name}-secrets"


def base(name: str) -> Object:
    """A base manifest. Raises: ConfigError if it is no YAML any more."""
    import yaml

    path = shipped_file(f"k8s/{name}.yaml")
    try:
        value = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected an object")
    return cast("Object", value)


def as_yaml(objects: list[Object]) -> str:
    """The objects as YAML documents that `kubectl apply -f -` takes."""
    import yaml

    class Plain(yaml.SafeDumper):
        def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - an anchor in a manifest helps nobody
            return True

    texts = [yaml.dump(one, Dumper=Plain, sort_keys=False, width=120, allow_unicode=True) for one in objects]
    return "---\n".join(texts)


def _job(job: JobSpec, run: RunRef, place: Place) -> list[Object]:
    made = _marked(base("job"), job, run, place)
    _fill_job(made["spec"], made["metadata"]["labels"], job, run, place)
    made["spec"]["template"]["spec"]["subdomain"] = place.name
    _queue(made, job)
    return [_service(job, run, place), made]


def _jobset(job: JobSpec, run: RunRef, place: Place) -> list[Object]:
    made = _marked(base("jobset"), job, run, place)
    replicated = next((one for one in made["spec"]["replicatedJobs"] if one["name"] == REPLICATED), None)
    if replicated is None:
        raise ConfigError(f"k8s/jobset.yaml has no replicated job named {REPLICATED!r}")
    template = replicated["template"]
    _fill_job(template["spec"], made["metadata"]["labels"], job, run, place)
    made["spec"].setdefault("failurePolicy", {})["maxRestarts"] = _backoff(job)
    template["spec"] |= {"backoffLimit": 0, "backoffLimitPerIndex": 0}
    for field in ("ttlSecondsAfterFinished",):
        if field in template["spec"]:
            made["spec"][field] = template["spec"].pop(field)
    _queue(made, job)
    return [made]


def _trainjob(job: JobSpec, run: RunRef, place: Place) -> list[Object]:
    options = job.kubernetes
    made = _marked(base("trainjob"), job, run, place)
    spec = made["spec"]
    spec["runtimeRef"] |= {"kind": options.runtime_kind, "name": options.runtime}
    trainer = spec["trainer"]
    pods.fill_container(trainer, job, run, place, secret_name(job, place))
    trainer["numNodes"] = job.resources.nodes.minimum
    trainer["resourcesPerNode"] = pods.resources(job)
    if len(spec.get("runtimePatches") or []) != 1:
        raise ConfigError("k8s/trainjob.yaml: expected one element in spec.runtimePatches, which is filled in")
    (patch,) = spec["runtimePatches"]
    volumes, mounts = pods.volumes(job, place)
    spec["runtimePatches"] = _mounting(patch, mounts)
    pod = _pod_of(patch)
    pod["metadata"] = {"labels": dict(made["metadata"]["labels"])}
    if options.annotations:
        pod["metadata"]["annotations"] = dict(options.annotations)
    pod["spec"] |= pods.placement(job) | {"terminationGracePeriodSeconds": pods.grace_s(job)}
    if volumes:
        pod["spec"]["volumes"] = volumes
    _deadline(spec, job)
    _queue(made, job)
    return [made]


def _mounting(patch: Object, mounts: list[Object]) -> list[Object]:
    """A runtime's patches with these mounts. The API takes one mount of a volume in each: more mounts, more patches."""
    blank = copy.deepcopy(patch)
    patches = [patch]
    for number, those in enumerate(_rounds(mounts), 1):
        if number > 1:
            patches.append(copy.deepcopy(blank) | {"manager": f"{blank['manager']}-{number}"})
        _pod_of(patches[-1])["spec"]["containers"] = [{"name": REPLICATED, "volumeMounts": those}]
    return patches


def _rounds(mounts: list[Object]) -> list[list[Object]]:
    """The first mount of each volume, then the second of each, and so on."""
    rounds: list[list[Object]] = []
    for mount in mounts:
        before = sum(one["name"] == mount["name"] for those in rounds for one in those)
        rounds += [[]] if before == len(rounds) else []
        rounds[before].append(mount)
    return rounds


def _pod_of(patch: Object) -> Object:
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    return cast("Object", replicated["template"]["spec"]["template"])


_KINDS: dict[str, Callable[[JobSpec, RunRef, Place], list[Object]]] = {
    "job": _job,
    "jobset": _jobset,
    "trainjob": _trainjob,
}


def _fill_job(spec: Object, labels: dict[str, str], job: JobSpec, run: RunRef, place: Place) -> None:
    """Fill in the spec of a Job, or of a JobSet's template of one."""
    options, nodes = job.kubernetes, job.resources.nodes.minimum
    spec |= {"completions": nodes, "parallelism": nodes, "backoffLimitPerIndex": _backoff(job)}
    _deadline(spec, job)
    if options.ttl is not None:
        spec["ttlSecondsAfterFinished"] = int(options.ttl)
    metadata = spec["template"].setdefault("metadata", {})
    metadata["labels"] = metadata.get("labels", {}) | labels
    if options.annotations:
        metadata["annotations"] = metadata.get("annotations", {}) | options.annotations
    pods.fill_pod(spec["template"]["spec"], job, run, place, secret_name(job, place))


def _deadline(spec: Object, job: JobSpec) -> None:
    deadline = job.kubernetes.active_deadline
    if deadline is not None:
        spec["activeDeadlineSeconds"] = max(1, int(deadline))


def _service(job: JobSpec, run: RunRef, place: Place) -> Object:
    made = _marked(base("service"), job, run, place)
    made["spec"]["selector"] = names.labels(run.run_id, run.attempt)
    for port in made["spec"].get("ports", [])[:1]:
        port["port"] = job.kubernetes.port
    return made


def _marked(made: Object, job: JobSpec, run: RunRef, place: Place) -> Object:
    """The object with its name, namespace, labels and annotations."""
    options = job.kubernetes
    metadata = made.setdefault("metadata", {})
    metadata["name"] = place.name
    if options.namespace is not None:
        metadata["namespace"] = options.namespace
    own = names.labels(run.run_id, run.attempt)
    metadata["labels"] = metadata.get("labels", {}) | options.labels | own
    metadata["annotations"] = metadata.get("annotations", {}) | options.annotations | {names.URL_ANNOTATION: run.url}
    return made


def _queue(made: Object, job: JobSpec) -> None:
    options = job.kubernetes
    if options.queue is None:
        return
    made["metadata"]["labels"][QUEUE_LABEL] = options.queue
    if options.queue_priority is not None:
        made["metadata"]["labels"][QUEUE_PRIORITY_LABEL] = options.queue_priority
    made["spec"]["suspend"] = True


def _backoff(job: JobSpec) -> int:
    limit = job.kubernetes.backoff_limit
    return job.restarts.on_failure if limit is None else limit


def _patched(made: Object, job: JobSpec) -> Object:
    main = {"job": "Job", "jobset": "JobSet", "trainjob": "TrainJob"}[job.kubernetes.kind]
    for patch in job.kubernetes.patch:
        if patch.get("kind", main) == made["kind"]:
            made = cast("Object", merged(made, patch))
    return made
