"""What a pod gets from the spec: command, variables, resources, volumes and placement. Pure functions."""

import dataclasses
from typing import Any

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.base import RunRef
from torchrelay_launch.spec.models import JobSpec, Volume

CONTAINER = "train"
GRACE_AFTER_S = 15  # for the last words, after the ranks have had their whole grace
CODE_VOLUME, SHM_VOLUME = "torchrelay-code", "shm"
Object = dict[str, Any]  # of the API, as in YAML


@dataclasses.dataclass(frozen=True)
class Place:
    """One attempt on Kubernetes: its name, and where its pods find each other."""

    name: str
    host: str  # stable DNS name of the first pod
    code: str | None = None  # path of the code snapshot below the run


def command(job: JobSpec, run: RunRef, place: Place) -> list[str]:
    """What a pod runs; which node it is, it learns from its completion index."""
    options = job.kubernetes
    words = [options.python, "-m", "torchrelay_launch.backends.kubernetes.pod"]
    words += ["--run", run.url, "--attempt", str(run.attempt), "--job", place.name]
    words += ["--nodes", str(job.resources.nodes.minimum), "--coordinator", f"{place.host}:{options.port}"]
    words += ["--join", f"{float(options.join):g}", "--workdir", options.workdir]
    if place.code is not None:
        words += ["--code", place.code]
    return [literal(word) for word in words]


def literal(text: str) -> str:
    """Kubernetes replaces $(NAME) in commands and values of variables, unless the dollar is doubled."""
    return text.replace("$(", "$$(")


def variables(job: JobSpec, secret: str) -> list[Object]:
    """`env:` as values, `secrets:` as references to a Secret."""
    values: list[Object] = [{"name": name, "value": literal(value)} for name, value in job.env.items()]
    if job.storage_options:
        import json

        text = json.dumps(job.storage_options, sort_keys=True)
        values.append({"name": "TORCHRELAY_STORAGE_OPTIONS", "value": literal(text)})
    return values + [
        {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": name}}} for name in job.secrets
    ]


def resources(job: JobSpec) -> Object:
    """Requests, and limits beside them. Quantities are strings. Cores are limited only if the spec names them."""
    wanted, options = job.resources, job.kubernetes
    ranks = wanted.world_procs_per_node
    requests: dict[str, str] = {"cpu": str(ranks * (wanted.cpus_per_proc or 1))}
    limits: dict[str, str] = {"cpu": requests["cpu"]} if wanted.cpus_per_proc else {}
    both: dict[str, str] = {}
    if wanted.memory is not None:
        both["memory"] = quantity(wanted.memory)
    if options.ephemeral_storage is not None:
        both["ephemeral-storage"] = quantity(options.ephemeral_storage)
    if wanted.gpus_per_node:
        both[options.gpu_resource] = str(wanted.gpus_per_node)
    both |= {name: str(count) for name, count in options.devices.items()}
    filled: Object = {"requests": requests | both}
    return filled | ({"limits": limits | both} if limits or both else {})


def quantity(size_bytes: int) -> str:
    """Bytes as the API writes them, in the largest unit that holds them exactly."""
    for unit in ("Ti", "Gi", "Mi", "Ki"):
        factor = 1024 ** ("KMGT".index(unit[0]) + 1)
        if size_bytes and size_bytes % factor == 0:
            return f"{size_bytes // factor}{unit}"
    return str(int(size_bytes))  # a Size prints itself with a unit of its own


def grace_s(job: JobSpec) -> int:
    return int(-(-float(job.restarts.grace) // 1)) + GRACE_AFTER_S


def fill_container(container: Object, job: JobSpec, run: RunRef, place: Place, secret: str) -> None:
    """Fill in a container, or the `trainer` of a TrainJob but for its resources."""
    container["image"] = job.kubernetes.image
    container["command"] = command(job, run, place)
    container["env"] = overridden(container.get("env", []), variables(job, secret))


def overridden(base: list[Object], ours: list[Object]) -> list[Object]:
    names = {one["name"] for one in ours}
    return [one for one in base if one["name"] not in names] + ours


def fill_pod(spec: Object, job: JobSpec, run: RunRef, place: Place, secret: str) -> None:
    """Fill in a pod's spec from a base manifest."""
    options = job.kubernetes
    container = next((one for one in spec["containers"] if one["name"] == CONTAINER), None)
    if container is None:
        raise ConfigError(f"the base manifest has no container named {CONTAINER!r}")
    fill_container(container, job, run, place, secret)
    container["resources"] = resources(job)
    _set(container, "imagePullPolicy", options.image_pull_policy)
    _set(container, "envFrom", options.env_from)
    if options.capabilities:
        security = container.setdefault("securityContext", {})
        security.setdefault("capabilities", {})["add"] = list(options.capabilities)
    sources, mounts = volumes(job, place)
    spec["volumes"] = overridden(spec.get("volumes", []), sources)
    taken = {one["mountPath"] for one in mounts}  # the spec's own take the place of the base manifest's
    container["volumeMounts"] = [
        one for one in container.get("volumeMounts", []) if one["mountPath"] not in taken
    ] + mounts
    _shared_memory(spec, job)
    spec["terminationGracePeriodSeconds"] = grace_s(job)
    if options.run_as_user is not None:
        user = {"runAsUser": options.run_as_user, "runAsNonRoot": options.run_as_user != 0}
        spec.setdefault("securityContext", {}).update(user)
    if options.host_network:
        spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    for field, value in placement(job).items():
        spec[field] = value
    _set(spec, "topologySpreadConstraints", options.topology_spread)
    _set(spec, "priorityClassName", options.priority_class)


def placement(job: JobSpec) -> Object:
    """Fields of a pod's spec that a TrainJob can override too."""
    options = job.kubernetes
    found: Object = {}
    _set(found, "nodeSelector", dict(options.node_selector))
    _set(found, "tolerations", list(options.tolerations))
    _set(found, "affinity", dict(options.affinity))
    _set(found, "serviceAccountName", options.service_account)
    _set(found, "imagePullSecrets", [{"name": name} for name in options.image_pull_secrets])
    return found


def volumes(job: JobSpec, place: Place) -> tuple[list[Object], list[Object]]:
    """The spec's volumes, each once, and their mounts. Raises: ConfigError for one without exactly one source."""
    sources: dict[str, Object] = {}
    mounts: list[Object] = []
    for volume in job.kubernetes.volumes:
        source = {"name": volume.name, **_source(volume)}
        if sources.setdefault(volume.name, source) != source:
            raise ConfigError(f"kubernetes.volumes: there are two different volumes {volume.name!r}")
        mount: Object = {"name": volume.name, "mountPath": volume.mount}
        _set(mount, "readOnly", volume.read_only)
        _set(mount, "subPath", volume.sub_path)
        mounts.append(mount)
    if place.code is not None:
        sources[CODE_VOLUME] = {"name": CODE_VOLUME, "emptyDir": {}}
        mounts.append({"name": CODE_VOLUME, "mountPath": job.kubernetes.workdir})
    paths = [one["mountPath"] for one in mounts]
    twice = {path for path in paths if paths.count(path) > 1}
    if twice:
        way_out = ""
        if place.code is not None and job.kubernetes.workdir in twice:
            way_out = "; the code snapshot goes to kubernetes.workdir: name another, or write code: live"
        raise ConfigError(f"kubernetes.volumes: mounted twice: {', '.join(sorted(twice))}{way_out}")
    return list(sources.values()), mounts


def _source(volume: Volume) -> Object:
    given: Object = {}
    _set(given, "persistentVolumeClaim", volume.claim and {"claimName": volume.claim})
    _set(given, "hostPath", volume.host_path and {"path": volume.host_path})
    _set(given, "configMap", volume.config_map and {"name": volume.config_map})
    _set(given, "secret", volume.secret and {"secretName": volume.secret})
    given |= {"emptyDir": {}} if volume.empty_dir else {}
    given |= volume.source or {}
    if len(given) != 1:
        what = "has more than one source" if given else "has no source"
        raise ConfigError(
            f"kubernetes.volumes: {volume.name!r} {what}: give one of claim, host_path, config_map, secret, empty_dir "
            "and source"
        )
    return given


def _shared_memory(spec: Object, job: JobSpec) -> None:
    size = job.kubernetes.shm_size
    if size is None:
        return
    volume: Object = next((one for one in spec["volumes"] if one["name"] == SHM_VOLUME), {})
    if "emptyDir" not in volume:
        raise ConfigError(
            f"kubernetes.shm_size: there is no emptyDir {SHM_VOLUME!r} that it could limit; leave it out, or the "
            "volume that takes its place"
        )
    volume["emptyDir"]["sizeLimit"] = quantity(size)


def _set(target: Object, field: str, value: object) -> None:
    """Set what the spec says; what it does not say stays as in the base manifest."""
    if value:
        target[field] = value
