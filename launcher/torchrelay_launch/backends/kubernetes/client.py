"""The API by the official client, and what its complaints mean. Bodies go in and come out as plain JSON objects."""

import json
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay_launch.spec.models import Kubernetes

Object = dict[str, Any]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
CONNECT_S, ANSWER_S = 5.0, 30.0
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"

# kind -> (path of its API group, plural)
KINDS = {
    "Job": ("apis/batch/v1", "jobs"),
    "JobSet": ("apis/jobset.x-k8s.io/v1alpha2", "jobsets"),
    "TrainJob": ("apis/trainer.kubeflow.org/v1alpha1", "trainjobs"),
    "Service": ("api/v1", "services"),
    "Secret": ("api/v1", "secrets"),
    "Pod": ("api/v1", "pods"),
    "Event": ("api/v1", "events"),
    "ResourceQuota": ("api/v1", "resourcequotas"),
    "Workload": ("apis/kueue.x-k8s.io/v1beta1", "workloads"),
    "LocalQueue": ("apis/kueue.x-k8s.io/v1beta1", "localqueues"),
}
INSTALL = {"JobSet": "JobSet", "TrainJob": "Kubeflow Trainer", "Workload": "Kueue", "LocalQueue": "Kueue"}
_FORBIDDEN = re.compile(r'cannot (\w+) resource "([\w./]+)" in API group "([\w.-]*)"(?: in the namespace "([\w.-]+)")?')


class ApiAwayError(TorchrelayError):
    """The API server does not answer; what runs in the cluster goes on without it."""


class NotThereError(ConfigError):
    """The API knows no such object."""


@dataclass(frozen=True)
class Api:
    """One namespace of one cluster."""

    namespace: str
    _client: Any = field(repr=False)

    def path(self, kind: str, name: str = "") -> str:
        group, plural = KINDS[kind]
        return f"/{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def create(self, made: Object, *, dry_run: bool = False) -> Object:
        """Raises: ConfigError with what the API says against it; ApiAwayError."""
        query = {"dryRun": "All"} if dry_run else {}
        return self.call("POST", self.path(made["kind"]), made, query)

    def get(self, kind: str, name: str) -> Object | None:
        """The object, or None if there is none. Raises: ConfigError, ApiAwayError."""
        try:
            return self.call("GET", self.path(kind, name))
        except NotThereError:
            return None

    def list(self, kind: str, labels: str = "", fields: str = "") -> list[Object]:
        """All objects that the selectors take. Raises: ConfigError, ApiAwayError."""
        query = {"labelSelector": labels} if labels else {}
        query |= {"fieldSelector": fields} if fields else {}
        found: list[Object] = self.call("GET", self.path(kind), None, query).get("items") or []
        return found

    def delete(self, kind: str, name: str) -> None:
        """Delete with all that it owns, the owned first; nothing if it is gone. Raises: ConfigError, ApiAwayError."""
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Foreground"}
        try:
            self.call("DELETE", self.path(kind, name), body)
        except NotThereError:
            return

    def patch(self, kind: str, name: str, change: Object) -> Object:
        """Merge a change into an object. Raises: ConfigError, ApiAwayError."""
        return self.call("PATCH", self.path(kind, name), change)

    def log(self, pod: str, lines: int) -> str:
        """The last lines of a pod's container. Raises: ConfigError, ApiAwayError."""
        return self._send("GET", f"{self.path('Pod', pod)}/log", None, {"tailLines": str(lines)}).decode(
            errors="replace"
        )

    def call(
        self, method: Method, path: str, body: Object | None = None, query: dict[str, str] | None = None
    ) -> Object:
        """One request. Raises: ConfigError with what the API says against it; NotThereError; ApiAwayError."""
        answer = json.loads(self._send(method, path, body, query or {}) or b"{}")
        return answer if isinstance(answer, dict) else {}

    def _send(self, method: Method, path: str, body: Object | None, query: dict[str, str]) -> bytes:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json, */*", "Content-Type": kind}
        try:
            response = self._client.call_api(
                path,
                method,
                query_params=list(query.items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _return_http_data_only=True,
                _request_timeout=(CONNECT_S, ANSWER_S),
            )
            return bytes(response.data)
        except ApiException as error:
            raise explained(error.status or 0, error.body, method, path, self.namespace) from None
        except (HTTPError, OSError) as error:
            host = self._client.configuration.host
            raise ApiAwayError(f"the Kubernetes API at {host} does not answer: {_reason(error)}") from None


def connect(options: Kubernetes, namespace: str | None = None) -> Api:
    """The cluster that kubectl would use: the kubeconfig's context, else the pod's own service account.

    Raises: ConfigError if there is none, with what to do.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise ConfigError("the Kubernetes client is not installed: pip install 'torchrelay[kubernetes]'") from error
    configuration = client.Configuration()
    configuration.retries = 1
    chosen = namespace or options.namespace
    try:
        config.load_kube_config(context=options.context, client_configuration=configuration)
        chosen = chosen or _namespace_of_context(config, options.context)
    except config.ConfigException as error:
        if options.context is not None:
            raise _no_context(config, options.context, str(error)) from None
        _in_cluster(config, configuration, error)
        chosen = chosen or _own_namespace()
    return Api(chosen or "default", client.ApiClient(configuration))


def explained(status: int, body: object, method: str, path: str, namespace: str) -> TorchrelayError:
    """The API's refusal as an error that says what to do."""
    said = _status(body)
    message = str(said.get("message") or body or "no message")
    if status == 401:
        return ConfigError(
            f"the Kubernetes API does not accept the credentials ({message}); log in to the cluster again"
        )
    if status == 403:
        return ConfigError(_forbidden(message, namespace))
    if status == 404:
        return _not_found(message, said, path, namespace)
    if status == 409:
        return ConfigError(f"{message}: it exists already; `torchrelay status` shows the run that it belongs to")
    if status == 429 or status >= 500:
        if "admission webhook" in message or "failed calling webhook" in message:
            return ConfigError(f"refused by the cluster's admission: {message}")
        return ApiAwayError(f"the Kubernetes API could not {method} {path}: {status} {message}")
    if "admission webhook" in message or "denied the request" in message:
        return ConfigError(f"refused by the cluster's admission: {message}")
    return ConfigError(f"the Kubernetes API refuses this: {message}")


def _forbidden(message: str, namespace: str) -> str:
    if "exceeded quota" in message:
        return f"the quota of namespace {namespace} does not allow this: {message}"
    match = _FORBIDDEN.search(message)
    if match is None:
        if "admission webhook" in message or "denied the request" in message:
            return f"refused by the cluster's admission: {message}"
        return f"the Kubernetes API forbids this: {message}"
    verb, resource, group, where = match.groups()
    rule = f'{{apiGroups: ["{group}"], resources: [{resource}], verbs: [{verb}]}}'
    return (
        f"not allowed to {verb} {resource} in namespace {where or namespace}: add the rule {rule} to the Role, "
        "as in k8s/rbac.yaml"
    )


def _not_found(message: str, said: Object, path: str, namespace: str) -> ConfigError:
    details = said.get("details") or {}
    if details.get("kind") == "namespaces" or message.startswith("namespaces "):
        return ConfigError(
            f"there is no namespace {namespace!r} in this cluster: make it, or set kubernetes.namespace to another"
        )
    plural = next((part for part in path.split("/") if any(part == names for _, names in KINDS.values())), "")
    kind = next((kind for kind, (_, names) in KINDS.items() if names == plural), "")
    if not details.get("name") and kind in INSTALL:
        return ConfigError(
            f"this cluster has no {plural}: {INSTALL[kind]} is not installed there; use kubernetes.kind: job"
        )
    return NotThereError(f"not found: {message}")


def _status(body: object) -> Object:
    try:
        found = json.loads(body) if isinstance(body, (str, bytes)) else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return re.sub(r"^.*?object at 0x[0-9a-f]+>: ", "", str(reason))


def _no_context(config: Any, wanted: str, said: str) -> ConfigError:
    try:
        contexts, _ = config.list_kube_config_contexts()
    except config.ConfigException:
        return ConfigError(f"kubernetes.context: {wanted!r}: {said}")
    there = ", ".join(str(one["name"]) for one in contexts) or "none"
    return ConfigError(f"kubernetes.context: the kubeconfig has no usable context {wanted!r}; there is: {there}")


def _namespace_of_context(config: Any, wanted: str | None) -> str | None:
    contexts, active = config.list_kube_config_contexts()
    chosen = next((one for one in contexts if one["name"] == wanted), active)
    return (chosen.get("context") or {}).get("namespace") if chosen else None


def _in_cluster(config: Any, configuration: Any, error: Exception) -> None:
    try:
        config.load_incluster_config(client_configuration=configuration)
    except config.ConfigException:
        raise ConfigError(
            f"no cluster to submit to: {error}; set KUBECONFIG, or log in so that `kubectl get jobs` works"
        ) from None


def _own_namespace() -> str | None:
    try:
        with open(SERVICE_ACCOUNT) as file:  # noqa: PTH123 - a path of the API's
            return file.read().strip() or None
    except OSError:
        return None
