"""A stateful HTTP server that speaks the parts of the Kubernetes API that are used, written from the API reference.

It keeps objects, gives uids and resource versions, honours label and field selectors, dryRun=All, foreground deletion
and merge patches, and answers with Status objects as an API server does. It listens on the loopback only.
"""

import copy
import json
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from api_rules import complaints, immutable_complaints
from api_statuses import GROUPS, Object, Refusal, conflict, exists, forbidden, invalid, not_allowed, not_found

KINDS_OF_LISTS = {"pods": "PodList", "events": "EventList", "jobs": "JobList", "resourcequotas": "ResourceQuotaList"}
NO_SUCH_PATH = Refusal(404, "404 page not found", plain=True)


class Cluster:
    """The state behind the API. `admission`: what refuses an object before it is kept."""

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str, str], Object] = {}  # (namespace, plural, name) -> object
        self.namespaces = {"training", "default"}
        self.terminating: set[str] = set()  # those of the namespaces that are being deleted
        self.installed = {"jobs", "pods", "services", "secrets", "events", "resourcequotas", "jobsets", "trainjobs"}
        self.forbidden: set[tuple[str, str]] = set()  # (verb, plural)
        self.token: str | None = None
        self.admission: list[Callable[[str, Object], None]] = []
        self.logs: dict[str, str] = {}  # by pod, and by POD/previous
        self.away = False
        self.interventions: list[Callable[[str, str], None]] = []  # get method and path, and may refuse
        self.conflicts = 0  # how many changes meet another one
        self.lost = ""  # METHOD PLURAL of requests that are acted on and not answered
        self.slow_deletion = False  # keep what is deleted until `finish_deletion`
        self.warning = ""  # a header of every answer
        self.calls: list[tuple[str, str]] = []
        self._version = 0
        self.lock = threading.RLock()

    def get(self, plural: str, name: str, namespace: str = "training") -> Object | None:
        return self.objects.get((namespace, plural, name))

    def all(self, plural: str) -> list[Object]:
        return [made for (_, kind, _), made in self.objects.items() if kind == plural]

    def put(self, plural: str, made: Object, namespace: str = "training") -> Object:
        """Keep an object, as a controller would."""
        made = copy.deepcopy(made)
        metadata = made.setdefault("metadata", {})
        metadata |= {"namespace": namespace, "uid": metadata.get("uid") or str(uuid.uuid4())}
        metadata.setdefault("creationTimestamp", "2026-11-21T10:15:00Z")
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        self.objects[namespace, plural, metadata["name"]] = made
        return made

    def admit(self, authorization: str | None) -> None:
        """Raises: Refusal of a request whatever it asks for."""
        if self.away:
            raise Refusal(503, "the server is currently unable to handle the request")
        if self.token is not None and authorization != f"Bearer {self.token}":
            raise Refusal(401, "Unauthorized")

    def act(self, method: str, path: str, query: dict[str, list[str]], body: Object | None) -> Object | str:
        """Answer one request. Raises: Refusal."""
        for intervene in self.interventions:
            intervene(method, path)
        if "/namespaces/" not in path:
            return self._of_the_cluster(path, body or {})
        namespace, plural, name, below = _parsed(path)
        verb = {"GET": "get" if name else "list", "POST": "create", "DELETE": "delete", "PATCH": "patch"}[method]
        shown = "pods/log" if below == "log" else plural
        if (verb, shown) in self.forbidden:
            raise not_allowed("ada", verb, shown, name, namespace)
        if plural not in self.installed:
            raise NO_SUCH_PATH
        if method == "POST":
            self._open(plural, namespace, (body or {})["metadata"]["name"])
        act = {"GET": self._read, "POST": self._create, "DELETE": self._delete, "PATCH": self._patch}[method]
        if below == "log":
            self._known(namespace, plural, name)
            return self.logs.get(f"{name}/previous" if query.get("previous") == ["true"] else name, "")
        return act(namespace, plural, name, query, body or {})

    def _of_the_cluster(self, path: str, body: Object) -> Object:
        if path == "/version":
            return {"major": "1", "minor": "37", "gitVersion": "v1.37.0"}
        if path == "/apis":
            return {"groups": [{"name": GROUPS[one]} for one in sorted(self.installed & set(GROUPS))]}
        if path == "/apis/kueue.x-k8s.io":
            if "workloads" not in self.installed:
                raise NO_SUCH_PATH
            return {"preferredVersion": {"version": "v1beta2"}}
        if path == "/api/v1/nodes":
            if ("list", "nodes") in self.forbidden:
                raise not_allowed("ada", "list", "nodes", "", "")
            return {"items": [{"status": {"allocatable": {"cpu": "8", "nvidia.com/gpu": "4"}}}]}
        asked = body["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, (asked["resource"], asked.get("subresource"))))
        return {"status": {"allowed": (asked["verb"], resource) not in self.forbidden}}

    def _read(self, namespace: str, plural: str, name: str, query: dict[str, list[str]], _body: Object) -> Object:
        if name:
            return self._known(namespace, plural, name)
        items = [made for (where, kind, _), made in self.objects.items() if (where, kind) == (namespace, plural)]
        labels, fields = query.get("labelSelector", [""])[0], query.get("fieldSelector", [""])[0]
        items = [one for one in items if _labelled(one, labels) and _fielded(one, fields)]
        kind = KINDS_OF_LISTS.get(plural, "List")
        items = [{key: value for key, value in one.items() if key not in ("kind", "apiVersion")} for one in items]
        return {"kind": kind, "metadata": {"resourceVersion": str(self._version)}, "items": items}

    def _create(self, namespace: str, plural: str, _name: str, query: dict[str, list[str]], body: Object) -> Object:
        name = body["metadata"]["name"]
        if query.get("fieldValidation") != ["Strict"]:
            raise Refusal(400, "an API server would only warn of fields that it does not know, and drop them")
        if self.conflicts:  # of the quota that counts it
            self.conflicts -= 1
            raise conflict("resourcequotas", "compute")
        if body["metadata"].get("namespace", namespace) != namespace:
            raise Refusal(400, "the namespace of the provided object does not match the namespace sent on the request")
        for admit in self.admission:
            admit(plural, body)
        if plural in ("jobs", "services", "jobsets", "trainjobs") and (found := complaints(body)):
            raise invalid(body["kind"], plural, name, found)
        if (namespace, plural, name) in self.objects:
            raise exists(plural, name)
        if query.get("dryRun") == ["All"]:
            return body
        return self.put(plural, body, namespace)

    def _delete(self, namespace: str, plural: str, name: str, _query: dict[str, list[str]], body: Object) -> Object:
        made = self._known(namespace, plural, name)
        assert body.get("propagationPolicy") == "Foreground"
        made["metadata"] |= {"deletionTimestamp": "2026-11-21T10:20:00Z", "finalizers": ["foregroundDeletion"]}
        if self.slow_deletion:  # by the garbage collector, pods first
            return made
        uid = made["metadata"]["uid"]
        owned = [
            key
            for key, one in self.objects.items()
            if any(owner["uid"] == uid for owner in one["metadata"].get("ownerReferences", []))
        ]
        for key in [*owned, (namespace, plural, name)]:
            del self.objects[key]
        return made

    def _patch(self, namespace: str, plural: str, name: str, _query: dict[str, list[str]], body: Object) -> Object:
        if self.conflicts:
            self.conflicts -= 1
            raise conflict(plural, name)
        made = _merged(self._known(namespace, plural, name), body)
        old = self._known(namespace, plural, name)["spec"]
        if plural == "jobs" and (found := list(immutable_complaints(old, made["spec"]))):
            raise invalid("Job", plural, name, found)
        return self.put(plural, made, namespace)

    def _open(self, plural: str, namespace: str, name: str) -> None:
        """Raises: Refusal if nothing can be made in the namespace."""
        if namespace not in self.namespaces:
            raise not_found("namespaces", namespace)
        if namespace in self.terminating:
            because = f"unable to create new content in namespace {namespace} because it is being terminated"
            raise forbidden(plural, name, because)

    def _known(self, namespace: str, plural: str, name: str) -> Object:
        try:
            return self.objects[namespace, plural, name]
        except KeyError:
            raise not_found(plural, name) from None


def _parsed(path: str) -> tuple[str, str, str, str]:
    parts = path.strip("/").split("/")
    at = parts.index("namespaces")
    namespace, plural, *rest = parts[at + 1 :]
    return namespace, plural, rest[0] if rest else "", rest[1] if len(rest) > 1 else ""


def _labelled(made: Object, selector: str) -> bool:
    labels = made["metadata"].get("labels", {})
    return all(labels.get(one.partition("=")[0]) == one.partition("=")[2] for one in selector.split(",") if one)


def _fielded(made: Object, selector: str) -> bool:
    for one in filter(None, selector.split(",")):
        path, _, wanted = one.partition("=")
        value: Any = made
        for part in path.split("."):
            value = value.get(part, {}) if isinstance(value, dict) else {}
        if value != wanted:
            return False
    return True


def _merged(old: Object, change: Object) -> Object:
    result = copy.deepcopy(old)
    for key, value in change.items():
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            result[key] = _merged(result.get(key) or {}, value)
        else:
            result[key] = value
    return result


def kubeconfig_of(url: str) -> Object:
    """A kubeconfig for the server: the context `test` in the namespace training, and `other`."""
    place = {"cluster": "c", "user": "ada"}
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "ada", "user": {"token": "good"}}],
        "contexts": [
            {"name": "test", "context": {**place, "namespace": "training"}},
            {"name": "other", "context": place},
        ],
    }


@contextmanager
def serving(cluster: Cluster) -> Iterator[str]:
    """The API of a cluster at a URL, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            size = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(size)) if size else None
            with cluster.lock:
                cluster.calls.append((self.command, parts.path))
                code, answer = self._respond(parts.path, parse_qs(parts.query), body)
                lost = bool(cluster.lost) and cluster.lost == f"{self.command} {parts.path.rpartition('/')[2]}"
            if lost:
                self.close_connection = True
                return
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(code)
            self.send_header("Content-Type", "text/plain" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            if cluster.warning:
                self.send_header("Warning", f'299 - "{cluster.warning}"')
            self.end_headers()
            self.wfile.write(data)

        def _respond(self, path: str, query: dict[str, list[str]], body: Object | None) -> tuple[int, Object | str]:
            try:
                cluster.admit(self.headers.get("Authorization"))
                return 201 if self.command == "POST" else 200, cluster.act(self.command, path, query, body)
            except Refusal as refusal:
                return refusal.code, refusal.answer()

        do_GET = do_POST = do_DELETE = do_PATCH = _answer  # noqa: N815 - named by http.server

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by http.server
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
