"""The API by the official client. Bodies go in and come out as plain JSON objects."""

import contextlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.kubernetes import kubeconfig, logins
from torchrelay_launch.backends.kubernetes.refusals import (
    KINDS,
    AgainError,
    ApiAwayError,
    ForbiddenError,
    NotDoneError,
    NotThereError,
    explained,
)
from torchrelay_launch.spec.models import Kubernetes

Object = dict[str, Any]
Method = Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
CONNECT_S, ANSWER_S = 5.0, 30.0
LOG_BYTES = 1 << 20
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount/namespace"
TRIES = 5  # of a change, before it is given up
_WARNING = re.compile(r'299 \S+ "((?:[^"\\]|\\.)*)"')
# An API server that has just started knows only some of the roles for a moment, and forbids what they would allow.
JUST_BACK_S = 60.0
_silent: dict[str, float] = {}  # when an API was away last, by host
_connected: dict[tuple[object, ...], Any] = {}  # clients by kubeconfig and context; a login can take a second

__all__ = ["Api", "ApiAwayError", "NotThereError", "connect", "explained"]


@dataclass(frozen=True)
class Api:
    """One namespace of one cluster."""

    namespace: str
    _client: Any = field(repr=False)
    warnings: list[str] = field(default_factory=list)  # what the API said beside its answers
    _versions: dict[str, str] = field(default_factory=dict, repr=False)

    @property
    def server(self) -> str:
        """Where the API is."""
        return str(self._client.configuration.host).rstrip("/")

    def path(self, kind: str, name: str = "") -> str:
        group, plural = KINDS[kind]
        if group.startswith("apis/") and group.count("/") == 1:
            group = f"{group}/{self._version(group)}"
        return f"/{group}/namespaces/{self.namespace}/{plural}" + (f"/{name}" if name else "")

    def create(self, made: Object, *, dry_run: bool = False) -> Object:
        """Raises: ConfigError with what the API says against it; ApiAwayError."""
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})  # it drops what it does not know
        return self._insisting("POST", self.path(made["kind"]), made, query)

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
        return self._insisting("PATCH", self.path(kind, name), change)

    def log(self, pod: str, container: str, lines: int, *, previous: bool = False) -> str:
        """The last lines of a container, or of the one before it in this pod. Raises: ConfigError, ApiAwayError."""
        query = {"container": container, "tailLines": str(lines), "limitBytes": str(LOG_BYTES)}
        query |= {"previous": "true"} if previous else {}
        return self._send("GET", f"{self.path('Pod', pod)}/log", None, query).decode(errors="replace")

    def _version(self, group: str) -> str:
        """The version of an API group that the server prefers."""
        if group not in self._versions:
            try:
                self._versions[group] = str(self.call("GET", f"/{group}")["preferredVersion"]["version"])
            except (NotThereError, KeyError):  # not installed, as the next request will say
                self._versions[group] = "v1"
        return self._versions[group]

    def _insisting(self, method: Method, path: str, body: Object, query: dict[str, str] | None = None) -> Object:
        """One request, again while the API says that it did nothing. Raises: as `call`."""
        for _ in range(TRIES - 1):
            try:
                return self.call(method, path, body, query)
            except AgainError as error:
                time.sleep(error.wait_s)
        return self.call(method, path, body, query)

    def call(
        self, method: Method, path: str, body: Object | None = None, query: dict[str, str] | None = None
    ) -> Object:
        """One request. Raises: ConfigError with what the API says against it; NotThereError; ApiAwayError."""
        said = self._send(method, path, body, query or {})
        try:
            answer = json.loads(said or b"{}")
        except ValueError:
            host = self._client.configuration.host
            raise ConfigError(
                f"what answers at {host} is no Kubernetes API, but perhaps a login page or a proxy: it said "
                f"{said[:60].decode(errors='replace')!r}"
            ) from None
        return answer if isinstance(answer, dict) else {}

    def _send(self, method: Method, path: str, body: Object | None, query: dict[str, str]) -> bytes:
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        headers = {"Accept": "application/json, */*", "Content-Type": kind}
        host, said = self._client.configuration.host, list[str]()
        try:
            with logins.heard() as said:
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
            self._note_warnings(response.headers.get("Warning") or "")
            return bytes(response.data)
        except ApiException as error:
            status = error.status or 0
            if status == 401:
                _connected.clear()  # a later login is looked for
                if said:
                    raise logins.failed(said) from None
            refused = explained(status, error.body, method, path, self.namespace)
            if isinstance(refused, ForbiddenError) and _just_back(host):
                raise ApiAwayError(
                    f"the Kubernetes API is just back, and may not know all rights yet: {refused}"
                ) from None
            if status >= 500 and not path.endswith("/log"):  # for which the pod's node is asked
                _silent[host] = time.monotonic()
            raise refused from None
        except (HTTPError, OSError) as error:
            if "CERTIFICATE_VERIFY_FAILED" in str(error):
                raise ConfigError(
                    f"the certificate of the Kubernetes API at {host} is not trusted: {_reason(error)}; see "
                    "certificate-authority of the cluster in the kubeconfig"
                ) from None
            _silent[host] = time.monotonic()
            away = NotDoneError if _not_sent(error) else ApiAwayError
            raise away(f"the Kubernetes API at {host} does not answer: {_reason(error)}") from None

    def _note_warnings(self, header: str) -> None:
        """Such as that pods would not be admitted in this namespace (RFC 7234, section 5.5)."""
        for escaped in _WARNING.findall(header):
            text = escaped.replace('\\"', '"')
            if text not in self.warnings:
                self.warnings.append(text)


def _just_back(host: str) -> bool:
    return time.monotonic() - _silent.get(host, -JUST_BACK_S) < JUST_BACK_S


def connect(options: Kubernetes, namespace: str | None = None, server: str = "") -> Api:
    """The cluster that kubectl would use: the kubeconfig's context, else the pod's own service account.

    `server`: where a run is; without `kubernetes.context`, a context that leads there comes before the current one.

    Raises: ConfigError if there is none, with what to do.
    """
    try:
        from kubernetes import client, config
    except ImportError as error:
        raise ConfigError("the Kubernetes client is not installed: pip install 'torchrelay[kubernetes]'") from error
    key = (*_kubeconfig(config), options.context, server)
    if key not in _connected:
        _connected[key] = _connection(client, config, options.context, server)
    made, of_context = _connected[key]
    return Api(namespace or options.namespace or of_context or "default", made)


def _kubeconfig(config: Any) -> tuple[object, ...]:
    """Where the kubeconfig is and when it was changed last."""
    found: list[object] = []
    for path in kubeconfig.files(config):
        with contextlib.suppress(OSError):
            found += [path, path.stat().st_mtime_ns]
    return tuple(found)


def _connection(client: Any, config: Any, context: str | None, server: str) -> tuple[Any, str | None]:
    """A client, and the namespace that belongs to it. Raises: ConfigError."""
    configuration = client.Configuration()
    configuration.retries = 1
    files = kubeconfig.files(config)
    joined, chosen = os.pathsep.join(map(str, files)), context or kubeconfig.chosen_context(files, server)
    try:
        with logins.heard() as said:
            config.load_kube_config(joined, context=chosen, client_configuration=configuration)
        if said and logins.anonymous(configuration):
            raise logins.failed(said)
        namespace = _namespace_of_context(config, joined, chosen)
    except config.ConfigException as error:
        if context is not None:
            raise _no_context(config, joined, context, str(error)) from None
        _in_cluster(config, configuration, error)
        namespace = _own_namespace()
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # the client trusts the file to be sound
        raise kubeconfig.unusable(joined, f"{type(error).__name__}: {error}") from None
    _through_proxy(configuration, kubeconfig.proxy_of(files, chosen))
    return client.ApiClient(configuration), namespace


def _through_proxy(configuration: Any, own: str | None) -> None:
    """As kubectl does: the proxy of the kubeconfig, else that of the environment for the server's scheme.

    The client by itself takes any proxy of the environment, and forgets NO_PROXY.
    """
    from urllib.parse import urlsplit
    from urllib.request import getproxies_environment

    found, server = getproxies_environment(), urlsplit(configuration.host)
    is_here = server.hostname == "localhost" or str(server.hostname).startswith("127.")
    configuration.proxy = own or (None if is_here else found.get(server.scheme))
    configuration.no_proxy = None if own else found.get("no")


def _not_sent(error: BaseException) -> bool:
    """Whether there was no connection that a request could have gone through."""
    from urllib3.exceptions import ConnectTimeoutError, NewConnectionError, SSLError

    return isinstance(getattr(error, "reason", None) or error, (ConnectTimeoutError, NewConnectionError, SSLError))


def _reason(error: BaseException) -> str:
    reason = getattr(error, "reason", None) or error
    return re.sub(r"^(<.*?object at 0x[0-9a-f]+>|\w+\(host=.*?\)): ", "", str(reason))


def _no_context(config: Any, files: str, wanted: str, said: str) -> ConfigError:
    try:
        contexts, _ = config.list_kube_config_contexts(files)
    except config.ConfigException:
        return ConfigError(f"kubernetes.context: {wanted!r}: {said}")
    there = ", ".join(str(one["name"]) for one in contexts) or "none"
    return ConfigError(f"kubernetes.context: the kubeconfig has no usable context {wanted!r}; there is: {there}")


def _namespace_of_context(config: Any, files: str, wanted: str | None) -> str | None:
    contexts, active = config.list_kube_config_contexts(files)
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
