"""The rules of the tests say no where Kubernetes 1.20.2's API server did, and yes where it did."""

import copy
from typing import Any

import pytest
from api_rules import complaints
from some_jobs import RUN, SMALL, main_of, pod_of

from torchrelay_launch.backends.kubernetes import objects

Object = dict[str, Any]
POD: dict[str, tuple[Object, str]] = {
    "node selector": ({"nodeSelector": {"a b": "c"}}, "nodeSelector a b"),
    "toleration without key": ({"tolerations": [{"operator": "Equal", "value": "x"}]}, "must be Exists"),
    "toleration's effect": ({"tolerations": [{"key": "a", "operator": "Exists", "effect": "X"}]}, "effect X"),
    "toleration's seconds": (
        {"tolerations": [{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 3}]},
        "NoExecute",
    ),
    "spread": ({"topologySpreadConstraints": [{"maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]}, "Required value"),
    "priority class": ({"priorityClassName": "A b"}, "priorityClassName"),
    "service account": ({"serviceAccountName": "A b"}, "serviceAccountName"),
    "user": ({"securityContext": {"runAsUser": -1}}, "between 0 and 2147483647"),
}
CONTAINER: dict[str, tuple[Object, str]] = {
    "pull policy": ({"imagePullPolicy": "Sometimes"}, "Unsupported value: 'Sometimes'"),
    "source of variables": ({"envFrom": [{}]}, "exactly one of configMapRef and secretRef"),
    "name of a variable": ({"env": [{"name": "..a", "value": "1"}]}, "must not start with '..'"),
    "path below a volume": ({"volumeMounts": [{"name": "tmp", "mountPath": "/x", "subPath": "../y"}]}, "subPath"),
    "privileged": ({"securityContext": {"privileged": True, "allowPrivilegeEscalation": False}}, "cannot set"),
    "resource": ({"resources": {"requests": {"gpu": "1"}}}, "standard resource type"),
}
JOB: dict[str, tuple[Object, str]] = {
    "backoff": ({"backoffLimit": True}, "backoffLimit is True"),
    "parallelism": ({"parallelism": -1}, "parallelism is -1"),
    "success of none": ({"successPolicy": {"rules": [{}]}}, "succeededIndexes or succeededCount"),
    "success of no pod": ({"successPolicy": {"rules": [{"succeededIndexes": "0-9"}]}}, "no indexes below completions"),
}


@pytest.fixture
def made() -> Object:
    return copy.deepcopy(main_of(objects.render(SMALL, RUN)))


@pytest.mark.parametrize("name", POD)
def test_pods(name: str, made: Object) -> None:
    change, says = POD[name]
    made["spec"]["template"]["spec"] |= change
    assert any(says in one for one in complaints(made))


@pytest.mark.parametrize("name", CONTAINER)
def test_containers(name: str, made: Object) -> None:
    change, says = CONTAINER[name]
    pod_of([made])["containers"][0] |= change
    assert any(says in one for one in complaints(made))


@pytest.mark.parametrize("name", JOB)
def test_jobs(name: str, made: Object) -> None:
    change, says = JOB[name]
    made["spec"] |= change
    assert any(says in one for one in complaints(made))


@pytest.mark.parametrize("ports", [[{"port": 0}], [{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]])
def test_services(ports: list[Object]) -> None:
    service = objects.render(SMALL, RUN)[0]
    service["spec"]["ports"] = ports
    assert complaints(service)


@pytest.mark.parametrize(
    "change", [{"activeDeadlineSeconds": 0}, {"ttlSecondsAfterFinished": 0}, {"parallelism": 0}, {"backoffLimit": 0}]
)
def test_nothing_is_a_number(change: Object, made: Object) -> None:
    made["spec"] |= change
    assert complaints(made) == []


def test_annotations(made: Object) -> None:
    made["metadata"]["annotations"] = {"Example.com/owner": "ada"}
    assert complaints(made) == []
    made["metadata"]["annotations"]["notes"] = "x" * 300_000
    assert complaints(made) == ["annotations: Too long: must have at most 262144 bytes"]
