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
    return [path for path in named if path.is_file() and path.stat().st_size > 0]


def current_context(paths: list[Path]) -> str | None:
    """None where no file names one. Raises: ConfigError for a file that is no kubeconfig."""
    import yaml

    named = []
    for path in paths:
        try:
            value = yaml.safe_load(path.read_text())
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise unusable(path, error) from None
        if not isinstance(value, dict):
            raise unusable(path, "expected a mapping")
        named.append(value.get("current-context"))
    return next((str(name) for name in named if name), None)


def unusable(path: Path | str, why: object) -> ConfigError:
    """What to say of a kubeconfig that cannot be read."""
    return ConfigError(f"the kubeconfig {path} cannot be used: {' '.join(str(why).split())}; set KUBECONFIG to another")
