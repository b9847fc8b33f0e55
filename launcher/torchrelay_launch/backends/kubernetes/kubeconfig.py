"""Which files and which context make the kubeconfig, as kubectl finds them.

Of several files in KUBECONFIG, the first that names a current context decides; files that are not there or empty do not
count, and neither does an empty KUBECONFIG. Source: kubectl's page on organizing cluster access.
"""

import os
from pathlib import Path
from typing import Any

from torchrelay.contract.errors import ConfigError

USUAL = "~/.kube/config"


def files(config: Any) -> list[Path]:
    """The files that count. `config`: the client's module."""
    where = str(config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION).strip(os.pathsep) or USUAL
    named = [Path(one).expanduser() for one in where.split(os.pathsep) if one]
    return [path for path in named if _counts(path)]


def _counts(path: Path) -> bool:
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError as error:  # in a folder that may not be looked into
        raise unusable(path, error.strerror or error) from None


def chosen_context(paths: list[Path], server: str = "") -> str | None:
    """The current context, unless it leads elsewhere than to `server` and another one there; None if none is named.

    Raises: ConfigError for a file that is no kubeconfig.
    """
    contents = _read(paths)
    current = next((str(one["current-context"]) for one in contents if one.get("current-context")), None)
    contexts = _named(contents, "contexts", "context")
    there = [name for name in contexts if server and _server(_cluster(contents, name)) == server]
    return current if current in there or not there else there[0]


def proxy_of(paths: list[Path], context: str | None) -> str | None:
    """The proxy that the kubeconfig names for a context's cluster, if any. Raises: ConfigError."""
    return _cluster(_read(paths), context).get("proxy-url")


def _cluster(contents: list[dict[str, Any]], context: str | None) -> dict[str, Any]:
    of_context = _named(contents, "contexts", "context").get(str(context), {})
    return _named(contents, "clusters", "cluster").get(str(of_context.get("cluster")), {})


def _server(cluster: dict[str, Any]) -> str:
    return str(cluster.get("server") or "").rstrip("/")


def _named(contents: list[dict[str, Any]], many: str, one: str) -> dict[str, dict[str, Any]]:
    """Entries of a list by their names; of several files the first that has a name counts."""
    found: dict[str, dict[str, Any]] = {}
    for content in contents:
        entries = content.get(many)
        for entry in entries if isinstance(entries, list) else []:
            if isinstance(entry, dict) and isinstance(entry.get(one), dict):
                found.setdefault(str(entry.get("name")), entry[one])
    return found


def _read(paths: list[Path]) -> list[dict[str, Any]]:
    import yaml

    contents = []
    for path in paths:
        try:
            value = yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise unusable(path, error) from None
        if not isinstance(value, dict):
            raise unusable(path, "expected a mapping")
        contents.append(value)
    return contents


def unusable(path: Path | str, why: object) -> ConfigError:
    """What to say of a kubeconfig that cannot be read."""
    return ConfigError(f"the kubeconfig {path} cannot be used: {' '.join(str(why).split())}; set KUBECONFIG to another")
