"""Which cluster, login and namespace: those that kubectl would use, or in a pod the pod's own."""

import os
import ssl
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import kubeconfig_of

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.kubernetes import client
from torchrelay_launch.backends.kubernetes.client import Api, connect
from torchrelay_launch.spec.models import Kubernetes

LOCATION = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"


@pytest.fixture(autouse=True)
def _no_cluster_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)


def written(path: Path, url: str, namespace: str, context: str) -> Path:
    config: dict[str, Any] = kubeconfig_of(url)
    names = {"name": context, "context": {"cluster": context, "user": context, "namespace": namespace}}
    config |= {"current-context": context, "contexts": [names], "clusters": [config["clusters"][0] | {"name": context}]}
    config["users"] = [config["users"][0] | {"name": context}]
    path.write_text(yaml.safe_dump(config))
    return path


def host_of(api: Api) -> str:
    return str(api._client.configuration.host)


def test_the_first_of_several_files_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    first = written(tmp_path / "first", "http://127.0.0.1:1", "n1", "one")
    second = written(tmp_path / "second", "http://127.0.0.1:2", "n2", "two")
    monkeypatch.setattr(LOCATION, os.pathsep.join(map(str, (tmp_path / "none", empty, first, second))))
    api = connect(Kubernetes())
    assert (host_of(api), api.namespace) == ("http://127.0.0.1:1", "n1")
    other = connect(Kubernetes(context="two"))
    assert (host_of(other), other.namespace) == ("http://127.0.0.1:2", "n2")


def test_an_empty_variable_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".kube").mkdir()
    written(tmp_path / ".kube" / "config", "http://127.0.0.1:1", "n1", "one")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(LOCATION, "")
    assert connect(Kubernetes()).namespace == "n1"


@pytest.mark.parametrize("text", ["current-context: [", "- 1\n", "{}\n", "contexts: 3\n", "users: [a]\n", "\x00"])
def test_a_file_that_is_no_kubeconfig(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config").write_text(text)
    monkeypatch.setattr(LOCATION, str(tmp_path / "config"))
    with pytest.raises(ConfigError, match="set KUBECONFIG"):
        connect(Kubernetes())


@pytest.mark.parametrize(
    ("server", "own", "environment", "expected"),
    [
        ("https://api.example:6443", None, {"HTTPS_PROXY": "http://p:1", "HTTP_PROXY": "http://q:2"}, "http://p:1"),
        ("https://api.example:6443", None, {"HTTP_PROXY": "http://q:2"}, None),
        ("https://api.example:6443", "http://own:3", {"HTTPS_PROXY": "http://p:1"}, "http://own:3"),
        ("https://127.0.0.1:6443", None, {"HTTPS_PROXY": "http://p:1"}, None),
    ],
)
def test_proxies_are_those_of_kubectl(
    server: str,
    own: str | None,
    environment: dict[str, str],
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = kubeconfig_of(server)
    if own:
        config["clusters"][0]["cluster"]["proxy-url"] = own
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    monkeypatch.setattr(LOCATION, str(tmp_path / "config"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (environment | {"NO_PROXY": "other.example"}).items():
        monkeypatch.setenv(name, value)
    configuration = connect(Kubernetes())._client.configuration
    assert configuration.proxy == expected
    assert configuration.no_proxy == (None if own else "other.example")


def test_what_answers_may_be_no_kubernetes_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class LoginPage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Log in, please</html>")

        def log_message(self, *_args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), LoginPage)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(LOCATION, str(written(tmp_path / "config", url, "n1", "one")))
    with pytest.raises(ConfigError, match=rf"{url} is no Kubernetes API, .*<html>Log in"):
        connect(Kubernetes()).list("Pod")
    server.shutdown()
    server.server_close()


def test_in_a_pod_the_pods_own_account_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    account = {"token": "of-the-pod", "ca.crt": "-----BEGIN CERTIFICATE-----\n", "namespace": "training\n"}
    for name, text in account.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(LOCATION, str(tmp_path / "none"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr("kubernetes.config.incluster_config.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setattr(client, "SERVICE_ACCOUNT", str(tmp_path / "namespace"))
    monkeypatch.setattr("kubernetes.client.ApiClient", Unconnected)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    api = connect(Kubernetes())
    assert (host_of(api), api.namespace) == ("https://10.96.0.1:443", "training")
    assert api._client.configuration.api_key["authorization"] == "bearer of-the-pod"


def test_a_certificate_that_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = tmp_path / "certificate", tmp_path / "key"
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"]
    subprocess.run([*made, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *_: None  # type: ignore[method-assign]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = written(tmp_path / "config", f"https://127.0.0.1:{server.server_port}", "n1", "one")
        monkeypatch.setattr(LOCATION, str(path))
        with pytest.raises(ConfigError, match=r"is not trusted: .*see certificate-authority"):
            connect(Kubernetes()).list("Pod")
        server.shutdown()


class Unconnected:
    """A client that opens nothing, since the certificate is none."""

    def __init__(self, configuration: Any) -> None:
        self.configuration = configuration
