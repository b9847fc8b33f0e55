"""What the API says against a request, as an error that says what to do."""

import json
import re
from typing import Any

from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay.contract.exit_codes import ExitCode

# kind -> (path of its API group, plural); a group without a version is asked for the one that it prefers
KINDS = {
    "Job": ("apis/batch/v1", "jobs"),
    "JobSet": ("apis/jobset.x-k8s.io/v1alpha2", "jobsets"),
    "TrainJob": ("apis/trainer.kubeflow.org/v1alpha1", "trainjobs"),
    "Service": ("api/v1", "services"),
    "Secret": ("api/v1", "secrets"),
    "Pod": ("api/v1", "pods"),
    "Event": ("api/v1", "events"),
    "ResourceQuota": ("api/v1", "resourcequotas"),
    "Workload": ("apis/kueue.x-k8s.io", "workloads"),
    "LocalQueue": ("apis/kueue.x-k8s.io", "localqueues"),
}
INSTALL = {"JobSet": "JobSet", "TrainJob": "Kubeflow Trainer", "Workload": "Kueue", "LocalQueue": "Kueue"}
_ADMISSION = "refused by the cluster's admission"
_ANONYMOUS = 'User "system:anonymous" cannot '  # the API lets requests without credentials in, to refuse them
# As in `Invalid value: core.SecurityContext{Privileged:(*bool)(0xc004aa678a)}: cannot set ...`
_VALUE = re.compile(r"^\w+ value: [\w.*&\[\]]*\{.*\}: ")
_FORBIDDEN = re.compile(r'cannot (\w+) resource "([\w./]+)" in API group "([\w.-]*)"(?: in the namespace "([\w.-]+)")?')


class ApiAwayError(TorchrelayError):
    """The API server does not answer; what runs in the cluster goes on without it. Exit code 74, as for storage."""

    exit_code = ExitCode.STORAGE


class NotThereError(ConfigError):
    """The API knows no such object."""


class ForbiddenError(ConfigError):
    """Whoever asks may not do this, as far as the API knows."""


class LoginError(ConfigError):
    """The API does not know who asks: a token that has expired or was never good, or none."""


class NotDoneError(ApiAwayError):
    """Nothing was done: the API was not reached, or says so."""


class AgainError(NotDoneError):
    """Somebody changed the object at the same time, or the quota that it counts to: to be tried again."""

    wait_s = 0.1


class BusyError(AgainError):
    """Too many ask."""

    wait_s = 1.0  # what an API server asks for, at least


def explained(status: int, body: object, method: str, path: str, namespace: str) -> TorchrelayError:
    """The API's refusal as an error that says what to do."""
    text = body.decode(errors="replace").strip() if isinstance(body, bytes) else body
    said = _status(text)
    message = str(said.get("message") or text or "no message")
    if status == 401:
        return LoginError(
            f"the Kubernetes API does not accept the credentials ({message}); log in to the cluster again"
        )
    if status == 403 and _ANONYMOUS in message:
        return LoginError(
            f"the kubeconfig gives no credentials for the Kubernetes API ({message}); log in to the cluster"
        )
    if status == 403 and "not yet ready to handle request" in message:
        return ApiAwayError(f"the Kubernetes API has only just started: {message}")
    if status == 403:
        return _forbidden(message, namespace)
    if status == 404:
        return _not_found(message, said, path, namespace)
    if status == 409 and said.get("reason") == "Conflict":
        return AgainError(f"the object was changed by somebody else at the same time: {message}")
    if status == 409:
        return ConfigError(f"{message}; `torchrelay status` shows the run that it belongs to")
    if status == 410:
        return ApiAwayError(f"the Kubernetes API has forgotten what it was asked about: {message}")
    if status == 429 or status >= 500:
        if _denied(message):
            return ConfigError(f"{_ADMISSION}: {message}")
        kind = BusyError if status == 429 else ApiAwayError
        return kind(f"the Kubernetes API could not {method} {path}: {status} {message}")
    if _denied(message):
        return ConfigError(f"{_ADMISSION}: {message}")
    return ConfigError(f"the Kubernetes API refuses this: {_invalid(said) or message}")


def _invalid(said: dict[str, Any]) -> str:
    """What is wrong with which field, without the values that the API prints as it holds them in memory."""
    details = said.get("details") or {}
    causes = [one for one in details.get("causes") or [] if one.get("field") and one.get("message")]
    texts = [f"{one['field']}: {_VALUE.sub('', one['message'])}" for one in causes]
    return f"{details.get('kind')} {details.get('name')} is invalid: {'; '.join(texts)}" if texts else ""


def _denied(message: str) -> bool:
    """Whether a webhook or an admission policy of the cluster's refused, or could not be asked."""
    return any(
        words in message
        for words in ("admission webhook", "failed calling webhook", "denied request", "denied the request")
    )


def _forbidden(message: str, namespace: str) -> ConfigError:
    if "exceeded quota" in message:
        return ConfigError(f"the quota of namespace {namespace} does not allow this: {message}")
    match = _FORBIDDEN.search(message)
    if match is None:
        return ConfigError(f"{_ADMISSION if _denied(message) else 'the Kubernetes API forbids this'}: {message}")
    verb, resource, group, where = match.groups()
    rule = f'{{apiGroups: ["{group}"], resources: [{resource}], verbs: [{verb}]}}'
    return ForbiddenError(
        f"not allowed to {verb} {resource} in namespace {where or namespace}, if there is one: add the rule {rule} to "
        "the Role, as in k8s/rbac.yaml"
    )


def _not_found(message: str, said: dict[str, Any], path: str, namespace: str) -> ConfigError:
    details = said.get("details") or {}
    if details.get("kind") == "namespaces" or message.startswith("namespaces "):
        return ConfigError(
            f"there is no namespace {namespace!r} in this cluster: make it, or set kubernetes.namespace to another"
        )
    plural = next((part for part in path.split("/") if any(part == names for _, names in KINDS.values())), "")
    kind = next((kind for kind, (_, names) in KINDS.items() if names == plural), "")
    if not details.get("name") and kind in INSTALL:
        way_out = "leave kubernetes.queue out" if INSTALL[kind] == "Kueue" else "use kubernetes.kind: job"
        return ConfigError(f"this cluster has no {plural}: {INSTALL[kind]} is not installed there; {way_out}")
    return NotThereError(f"not found: {message}")


def _status(body: object) -> dict[str, Any]:
    try:
        found = json.loads(body) if isinstance(body, (str, bytes)) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
