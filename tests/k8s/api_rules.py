"""What the API server checks beyond its schema, for the objects that torchrelay makes: a list of complaints each.

Written from the API reference and from what the validation of batch/v1 and core/v1, JobSet's webhook (v1alpha2) and the
markers of Kubeflow Trainer's types (v1alpha1) say. A few complaints are of what a server takes and pods then fail by:
names that do not resolve, a user that the kubelet refuses, variables set twice.
"""

import re
from collections.abc import Iterator
from typing import Any

from api_field_rules import (
    LABEL_1123,
    annotation_complaints,
    container_complaints,
    label_complaints,
    placement_complaints,
    resource_name_complaints,
    service_complaints,
    volume_complaints,
)

LABEL_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?\Z")
QUANTITY = re.compile(r"\d+(\.\d+)?(m|[KMGTPE]i|[kMGTPE])?\Z")
ENV_NAME = re.compile(r"[-._a-zA-Z][-._a-zA-Z0-9]*\Z")
FACTORS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12} | {
    f"{letter}i": 1024.0 ** (index + 1) for index, letter in enumerate("KMGTPE")
}
ACTIONS = {"FailJob", "FailIndex", "Ignore", "Count"}


def complaints(made: dict[str, Any]) -> list[str]:
    """All that an API server would refuse."""
    checks = {"Job": _job, "Service": _service, "JobSet": _jobset, "TrainJob": _trainjob}
    return [*_metadata(made["metadata"]), *checks[made["kind"]](made)]


def _metadata(metadata: dict[str, Any]) -> Iterator[str]:
    yield from label_complaints(metadata.get("labels", {}), "label")
    yield from annotation_complaints(metadata.get("annotations", {}))


def _service(made: dict[str, Any]) -> Iterator[str]:
    name = made["metadata"]["name"]
    if len(name) > 63 or not LABEL_1035.match(name):
        yield f"service name {name!r} is no RFC 1035 label"
    ports = made["spec"]["ports"]
    if len(ports) > 1 and not all(port.get("name") for port in ports):
        yield "several ports need names"
    if not made["spec"].get("selector"):
        yield "no selector, so no endpoints"
    yield from service_complaints(made["spec"])


def _job(made: dict[str, Any]) -> Iterator[str]:
    yield from _job_spec(made["metadata"]["name"], made["spec"])
    if made["spec"]["template"]["spec"].get("subdomain") != made["metadata"]["name"]:
        yield "subdomain is not the Service's name, so pods have no names"


def _job_spec(name: str, spec: dict[str, Any]) -> Iterator[str]:
    completions, parallelism = spec.get("completions"), spec.get("parallelism", 1)
    if spec.get("completionMode") == "Indexed":
        if completions is None:
            yield "completions is required when completionMode is Indexed"
        if parallelism > 100_000:
            yield "parallelism of an Indexed Job is at most 10^5"
        longest = f"{name}-{(completions or 1) - 1}"
        if len(longest) > 63 or not LABEL_1123.match(longest):
            yield f"the host name {longest!r} of the last pod is no DNS label"
        if len(f"{longest}-abcde") > 63:
            yield f"the name of the last pod is cut: {longest}"
    policy = spec["template"]["spec"].get("restartPolicy")
    if policy not in ("Never", "OnFailure"):
        yield f"restartPolicy {policy}"
    if "podFailurePolicy" in spec:
        if policy != "Never":
            yield "podFailurePolicy needs restartPolicy Never"
        if spec.get("podReplacementPolicy", "Failed") != "Failed":
            yield "podReplacementPolicy must be Failed with podFailurePolicy"
        yield from _failure_policy(spec)
    for field in ("backoffLimit", "activeDeadlineSeconds", "ttlSecondsAfterFinished", "parallelism", "completions"):
        if spec.get(field) is not None and (type(spec[field]) is not int or spec[field] < 0):
            yield f"{field} is {spec[field]!r}"
    yield from _limits_per_index(spec)
    yield from _success_policy(spec)
    if "selector" in spec:
        yield "the selector is the server's to make"
    yield from _metadata(spec["template"].get("metadata", {}))
    yield from _pod(spec["template"]["spec"])


def _limits_per_index(spec: dict[str, Any]) -> Iterator[str]:
    limit, most = spec.get("backoffLimitPerIndex"), spec.get("maxFailedIndexes")
    never = spec["template"]["spec"].get("restartPolicy") == "Never"
    number = type(limit) is int and limit >= 0
    if limit is not None and (spec.get("completionMode") != "Indexed" or not never or not number):
        yield "backoffLimitPerIndex needs an Indexed Job with restartPolicy Never"
    if most is not None and (limit is None or not 0 <= most <= (spec.get("completions") or 0)):
        yield "maxFailedIndexes needs backoffLimitPerIndex, and is at most completions"


def _success_policy(spec: dict[str, Any]) -> Iterator[str]:
    if "successPolicy" not in spec:
        return
    rules = spec["successPolicy"].get("rules") or []
    if spec.get("completionMode") != "Indexed":
        yield "successPolicy needs completionMode Indexed"
    if not 1 <= len(rules) <= 20:
        yield "successPolicy has 1 to 20 rules"
    for rule in rules:
        indexes, count = rule.get("succeededIndexes"), rule.get("succeededCount")
        if indexes is None and count is None:
            yield "a rule of successPolicy has succeededIndexes or succeededCount"
        if indexes is not None and not _indexes(indexes, spec.get("completions") or 0):
            yield f"succeededIndexes: {indexes!r} are no indexes below completions, in order"
        if count is not None and (type(count) is not int or count < 1):
            yield f"succeededCount is {count!r}"


def _indexes(text: object, completions: int) -> bool:
    """Whether this is a list such as 0,2-4."""
    if not isinstance(text, str) or not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return False
    numbers = [int(number) for number in re.split("[,-]", text)]
    return numbers == sorted(set(numbers)) and numbers[-1] < completions


def _failure_policy(spec: dict[str, Any]) -> Iterator[str]:
    rules, pod = spec["podFailurePolicy"]["rules"], spec["template"]["spec"]
    if len(rules) > 20:
        yield "more than 20 rules"
    names = {one["name"] for one in pod["containers"] + pod.get("initContainers", [])}
    for rule in rules:
        if rule["action"] not in ACTIONS or (rule["action"] == "FailIndex" and "backoffLimitPerIndex" not in spec):
            yield f"action {rule['action']} (FailIndex needs backoffLimitPerIndex)"
        if ("onExitCodes" in rule) == ("onPodConditions" in rule):
            yield "a rule has exactly one of onExitCodes and onPodConditions"
        codes = rule.get("onExitCodes", {"values": [1], "operator": "In"})
        values = codes["values"]
        if values != sorted(set(values)) or not 1 <= len(values) <= 255:
            yield f"exit codes must be ordered and differ: {values}"
        if codes["operator"] == "In" and 0 in values:
            yield "0 cannot be in a rule with In"
        if codes.get("containerName", pod["containers"][0]["name"]) not in names:
            yield f"no container {codes['containerName']}"
        for condition in rule.get("onPodConditions", []):
            if condition.get("status") not in ("True", "False", "Unknown"):
                yield f"status {condition.get('status')!r} of a condition must be text"


def _pod(spec: dict[str, Any]) -> Iterator[str]:
    names = [one["name"] for one in spec.get("volumes", [])]
    if len(names) != len(set(names)):
        yield f"two volumes of one name: {names}"
    for volume in spec.get("volumes", []):
        if len(volume) != 2 or len(volume["name"]) > 63 or not LABEL_1123.match(volume["name"]):
            yield f"volume {volume}: a name and exactly one source"
        size = volume.get("emptyDir", {}).get("sizeLimit", "1")
        if not isinstance(size, str) or not QUANTITY.match(size):
            yield f"sizeLimit: {size!r} is no quantity in text"
        yield from volume_complaints(volume)
    if spec.get("hostNetwork") and spec.get("dnsPolicy") != "ClusterFirstWithHostNet":
        yield "with the host's network, the Service's names resolve only with ClusterFirstWithHostNet"
    for container in spec["containers"]:
        yield from _container(container, set(names))
    context = spec.get("securityContext", {})
    if context.get("runAsNonRoot") and context.get("runAsUser") == 0:
        yield "runAsNonRoot as user 0"
    yield from placement_complaints(spec)


def _container(container: dict[str, Any], volumes: set[str]) -> Iterator[str]:
    if not container.get("image"):
        yield "no image"
    variables = [one["name"] for one in container.get("env", [])]
    if len(variables) != len(set(variables)):
        yield f"a variable is set twice: {variables}"
    for one in container.get("env", []):
        if not ENV_NAME.match(one["name"]) or ("value" in one) == ("valueFrom" in one):
            yield f"variable {one}"
        if "value" in one and not isinstance(one["value"], str):
            yield f"the value of {one['name']} is no text"
    paths = [one["mountPath"] for one in container.get("volumeMounts", [])]
    if len(paths) != len(set(paths)):
        yield f"mounted twice: {paths}"
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes or ":" in mount["mountPath"]:
            yield f"mount {mount}"
    yield from container_complaints(container)
    yield from resource_complaints(container.get("resources", {}))


def resource_complaints(resources: dict[str, Any]) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    for name, value in [*requests.items(), *limits.items()]:
        if not isinstance(value, str) or not QUANTITY.match(value):
            yield f"{name}: {value!r} is no quantity in text"
            return
    yield from resource_name_complaints(sorted({*requests, *limits}))
    for name, value in limits.items():
        if name in requests and amount(requests[name]) > amount(value):
            yield f"{name}: the request is above the limit"
    for name in requests:
        extended = "/" in name
        if extended and (limits.get(name) != requests[name] or not requests[name].isdigit()):
            yield f"{name}: an extended resource is whole, and its limit is its request"


def amount(quantity: str) -> float:
    match = re.match(r"([\d.]+)(.*)", quantity)
    assert match
    return float(match[1]) * FACTORS[match[2]]


def restricted_complaints(spec: dict[str, Any]) -> Iterator[str]:
    """What the Pod Security Standard `restricted` refuses in a pod."""
    context = spec.get("securityContext", {})
    if spec.get("hostNetwork") or spec.get("hostPID") or spec.get("hostIPC"):
        yield "the host's namespaces"
    if not context.get("runAsNonRoot") or context.get("runAsUser") == 0:
        yield "runAsNonRoot"
    if context.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
        yield "seccompProfile"
    taken = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
    for volume in spec.get("volumes", []):
        if not (volume.keys() - {"name"}) <= taken:
            yield f"volume {volume['name']}"
    for container in spec["containers"]:
        own = container.get("securityContext", {})
        capabilities = own.get("capabilities", {})
        if own.get("allowPrivilegeEscalation") is not False or own.get("privileged"):
            yield "allowPrivilegeEscalation"
        if capabilities.get("drop") != ["ALL"] or not set(capabilities.get("add", [])) <= {"NET_BIND_SERVICE"}:
            yield f"capabilities {capabilities}"


def immutable_complaints(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    """What may not change in a Job's spec; Kueue's changes to the template of a suspended one are left out."""
    fixed = ("completionMode", "podFailurePolicy", "selector", "template", "podReplacementPolicy")
    for field in (*fixed, "backoffLimitPerIndex", "successPolicy"):
        if old.get(field) != new.get(field):
            yield f"spec.{field}: field is immutable"
    changed = old.get("completions") != new.get("completions")
    equal = all(spec.get("completions") == spec.get("parallelism") for spec in (old, new))
    if changed and not (new.get("completionMode") == "Indexed" and equal):
        yield "spec.completions: field is immutable"


def _jobset(made: dict[str, Any]) -> Iterator[str]:
    name = made["metadata"]["name"]
    known = {
        "PodFailurePolicy",
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "FailedIndexes",
        "MaxFailedIndexesExceeded",
    }
    for replicated in made["spec"]["replicatedJobs"]:
        job = f"{name}-{replicated['name']}-{replicated['replicas'] - 1}"
        if len(job) > 63 or not LABEL_1035.match(job):
            yield f"the name {job!r} of a Job is no RFC 1035 label"
        yield from _job_spec(job, replicated["template"]["spec"])
    names = [rule["name"] for rule in made["spec"]["failurePolicy"]["rules"]]
    if len(names) != len(set(names)):
        yield f"two rules of one name: {names}"
    if not isinstance(made["spec"]["failurePolicy"]["maxRestarts"], int):
        yield "maxRestarts is no number"
    for rule in made["spec"]["failurePolicy"]["rules"]:
        if not re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", rule["name"]):
            yield f"rule name {rule['name']!r}"
        if rule["action"] not in ("FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"):
            yield f"action {rule['action']}"
        if not set(rule["onJobFailureReasons"]) <= known:
            yield f"reasons {rule['onJobFailureReasons']}"


def _trainjob(made: dict[str, Any]) -> Iterator[str]:
    name = made["metadata"]["name"]
    if len(name) > 63 or not LABEL_1035.match(name):
        yield f"name {name!r} is no RFC 1035 label"
    trainer, spec = made["spec"]["trainer"], made["spec"]
    if not spec["runtimeRef"].get("name") or spec["runtimeRef"].get("kind") not in (
        "ClusterTrainingRuntime",
        "TrainingRuntime",
    ):
        yield f"runtimeRef {spec['runtimeRef']}"
    if not isinstance(spec.get("suspend", False), bool) or not isinstance(trainer["numNodes"], int):
        yield "suspend is true or false, numNodes a number"
    if len(trainer["image"]) > 500 or len(trainer["command"]) > 128 or len(trainer["env"]) > 128:
        yield "more than the API takes: 500 characters of image, 128 words of command, 128 variables"
    reserved = {one["name"] for one in trainer["env"] if one["name"].startswith("PET_")}
    if reserved:
        yield f"variables of the Torch runtime: {sorted(reserved)}"
    yield from resource_complaints(trainer.get("resourcesPerNode", {}))
    patchable = {"serviceAccountName", "volumes", "initContainers", "containers", "imagePullSecrets", "securityContext"}
    patchable |= {"nodeSelector", "affinity", "tolerations", "schedulingGates", "terminationGracePeriodSeconds"}
    patches = made["spec"].get("runtimePatches", [])
    yield from _twice(patches, "manager")
    volumes: set[str] = set()
    for patch in patches:
        (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        override = replicated["template"]["spec"]["template"]
        if not patch.get("manager") or not set(override["spec"]) <= patchable:
            yield f"runtime patch {sorted(override['spec'])}"
        yield from _twice(override["spec"].get("volumes", []), "name")
        volumes |= {one["name"] for one in override["spec"].get("volumes", [])}
        for container in override["spec"].get("containers", []):
            if "env" in container and container["name"] == "node":
                yield "variables of the container `node` are set by `trainer` alone"
            yield from _twice(container.get("volumeMounts", []), "name")
            if any(one["name"] not in volumes for one in container.get("volumeMounts", [])):
                yield "a mount has no volume"


def _twice(items: list[dict[str, Any]], key: str) -> Iterator[str]:
    """A list that the API takes for a map, `listType=map`, has each key once."""
    values = [one[key] for one in items]
    if len(values) != len(set(values)):
        yield f"{key} twice: {values}"
