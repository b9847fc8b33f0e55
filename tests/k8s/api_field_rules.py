"""More of what the API server checks in fields that a spec fills in: a list of complaints each.

Held against the answers of Kubernetes 1.20.2's API server, field by field.
"""

import re
from collections.abc import Iterator
from typing import Any

LABEL_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?\Z")
SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\Z")
LABEL_VALUE = re.compile(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]\Z|\Z")
QUALIFIED_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?\Z")
CONFIG_KEY = re.compile(r"[-._a-zA-Z0-9]+\Z")
STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")
ANNOTATIONS_BYTES = 256 * 1024


def label_complaints(labels: dict[str, Any], what: str) -> Iterator[str]:
    for key, value in labels.items():
        valid = isinstance(value, str) and len(value) <= 63 and LABEL_VALUE.match(value)
        if not QUALIFIED_NAME.match(key) or not valid:
            yield f"{what} {key}: {value!r}"


def annotation_complaints(annotations: dict[str, Any]) -> Iterator[str]:
    for key, value in annotations.items():
        if not QUALIFIED_NAME.match(key.lower()) or not isinstance(value, str):
            yield f"annotation {key}: {value!r}"
    if sum(len(f"{key}{value}".encode()) for key, value in annotations.items()) > ANNOTATIONS_BYTES:
        yield "annotations: Too long: must have at most 262144 bytes"


def placement_complaints(spec: dict[str, Any]) -> Iterator[str]:
    """Of a pod's spec: where it may run, and as what."""
    yield from label_complaints(spec.get("nodeSelector", {}), "nodeSelector")
    for toleration in spec.get("tolerations", []):
        yield from _toleration(toleration)
    spread = spec.get("topologySpreadConstraints", [])
    for one in spread:
        if one.get("maxSkew", 0) < 1 or one.get("whenUnsatisfiable") not in ("DoNotSchedule", "ScheduleAnyway"):
            yield f"topologySpreadConstraints: {one}"
        if not one.get("topologyKey"):
            yield "topologySpreadConstraints: topologyKey: Required value"
    pairs = [(one.get("topologyKey"), one.get("whenUnsatisfiable")) for one in spread]
    if len(pairs) != len(set(pairs)):
        yield f"topologySpreadConstraints: Duplicate value: {pairs}"
    for field in ("priorityClassName", "serviceAccountName"):
        if field in spec and not SUBDOMAIN.match(spec[field]):
            yield f"{field}: {spec[field]!r} is no RFC 1123 subdomain"
    for one in ("runAsUser", "runAsGroup", "fsGroup"):
        if not 0 <= spec.get("securityContext", {}).get(one, 0) < 2**31:
            yield f"securityContext.{one}: must be between 0 and 2147483647, inclusive"


def _toleration(one: dict[str, Any]) -> Iterator[str]:
    exists = one.get("operator") == "Exists"
    if exists and one.get("value"):
        yield "a toleration with Exists has no value"
    if not one.get("key") and not exists:
        yield "operator must be Exists when `key` is empty"
    if one.get("effect", "") not in ("", "NoSchedule", "PreferNoSchedule", "NoExecute"):
        yield f"toleration: effect {one['effect']}"
    if "tolerationSeconds" in one and one.get("effect") != "NoExecute":
        yield "effect must be 'NoExecute' when `tolerationSeconds` is set"


def container_complaints(container: dict[str, Any]) -> Iterator[str]:
    if container.get("imagePullPolicy", "Always") not in ("Always", "IfNotPresent", "Never"):
        yield f"imagePullPolicy: Unsupported value: {container['imagePullPolicy']!r}"
    for one in container.get("envFrom", []):
        if len(one.keys() & {"secretRef", "configMapRef"}) != 1:
            yield f"envFrom: exactly one of configMapRef and secretRef: {one}"
    for one in container.get("env", []):
        reference = one.get("valueFrom", {}).get("secretKeyRef")
        if one["name"] in (".", "..") or one["name"].startswith(".."):
            yield f"variable {one['name']}: must not start with '..'"
        if reference is not None and not CONFIG_KEY.match(reference["key"]):
            yield f"secretKeyRef.key: {reference['key']!r} is no key of a Secret"
        if reference is not None and not SUBDOMAIN.match(reference["name"]):
            yield f"secretKeyRef.name: {reference['name']!r} is no RFC 1123 subdomain"
    for mount in container.get("volumeMounts", []):
        below = mount.get("subPath", "")
        if not mount["mountPath"] or below.startswith("/") or ".." in below.split("/"):
            yield f"mount {mount}: a path; subPath is relative and without '..'"
    own = container.get("securityContext", {})
    strong = own.get("privileged") or "CAP_SYS_ADMIN" in own.get("capabilities", {}).get("add", [])
    if own.get("allowPrivilegeEscalation") is False and strong:
        yield "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"


def volume_complaints(volume: dict[str, Any]) -> Iterator[str]:
    if ".." in volume.get("hostPath", {}).get("path", "").split("/"):
        yield f"volume {volume['name']}: hostPath.path: must not contain '..'"
    if "persistentVolumeClaim" in volume and not volume["persistentVolumeClaim"].get("claimName"):
        yield f"volume {volume['name']}: claimName: Required value"


def resource_name_complaints(names: list[str]) -> Iterator[str]:
    for name in names:
        if "/" not in name and name not in STANDARD_RESOURCES and not name.startswith("hugepages-"):
            yield f"{name}: must be a standard resource type or fully qualified"
        if name.startswith("hugepages-") and not {"cpu", "memory"} & set(names):
            yield "HugePages require cpu or memory"


def service_complaints(spec: dict[str, Any]) -> Iterator[str]:
    yield from label_complaints(spec.get("selector", {}), "selector")
    if not spec["ports"] and spec.get("clusterIP") != "None":
        yield "ports: Required value"
    numbers = [one["port"] for one in spec["ports"]]
    if len(numbers) != len(set(numbers)):
        yield f"ports: Duplicate value: {numbers}"
    for one in spec["ports"]:
        if not 1 <= one["port"] <= 65535 or not LABEL_1123.match(one.get("name", "x")):
            yield f"port {one}"
