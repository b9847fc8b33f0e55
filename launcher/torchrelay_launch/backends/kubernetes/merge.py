"""Strategic merge patches: as JSON merge patches, but lists of named things are merged by their keys.

Source: the patch strategies and merge keys of the API reference, and the update-api-object-kubectl-patch task page.
"""

import copy

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.settings import Json

# field -> the key that its elements are told apart by; every other list is replaced
MERGE_KEYS = {
    "containers": "name",
    "ephemeralContainers": "name",
    "env": "name",
    "hostAliases": "ip",
    "imagePullSecrets": "name",
    "initContainers": "name",
    "ownerReferences": "uid",
    "ports": "containerPort",
    "replicatedJobs": "name",
    "resourceClaims": "name",
    "runtimePatches": "manager",
    "schedulingGates": "name",
    "topologySpreadConstraints": "topologyKey",
    "volumeDevices": "devicePath",
    "volumeMounts": "mountPath",
    "volumes": "name",
}
SERVICE_PORTS_KEY = "port"
DIRECTIVE = "$patch"


def merged(base: dict[str, Json], patch: dict[str, Json], where: str = "") -> dict[str, Json]:
    """`base` with the patch applied; neither is changed. Raises: ConfigError for a patch that cannot be."""
    if patch.get(DIRECTIVE) == "replace":
        return copy.deepcopy({key: value for key, value in patch.items() if key != DIRECTIVE})
    result = copy.deepcopy(base)
    for key, value in patch.items():
        path = f"{where}.{key}" if where else key
        if key.startswith("$"):
            raise ConfigError(f"kubernetes.patch: {path}: only `$patch: replace` and `$patch: delete` are understood")
        if value is None:
            result.pop(key, None)
        elif isinstance(value, dict):
            old = result.get(key)
            if value.get(DIRECTIVE) == "delete":
                result.pop(key, None)
            else:
                result[key] = merged(old if isinstance(old, dict) else {}, value, path)
        elif isinstance(value, list):
            result[key] = _merged_list(result.get(key), value, key, path)
        else:
            result[key] = value
    return result


def _merged_list(old: Json, new: list[Json], field: str, path: str) -> list[Json]:
    key = MERGE_KEYS.get(field)
    if key == "containerPort" and any(isinstance(one, dict) and "containerPort" not in one for one in new):
        key = SERVICE_PORTS_KEY
    if key is None:
        return copy.deepcopy(new)
    items = [one for one in new if isinstance(one, dict)]
    if len(items) != len(new):
        raise ConfigError(f"kubernetes.patch: {path}: expected a list of objects with the key `{key}`")
    replace = any(one.get(DIRECTIVE) == "replace" and len(one) == 1 for one in items)
    result: list[Json] = [] if replace or not isinstance(old, list) else copy.deepcopy(old)
    for one in items:
        if not (one.get(DIRECTIVE) == "replace" and len(one) == 1):
            _merge_item(result, one, key, path)
    return result


def _merge_item(result: list[Json], item: dict[str, Json], key: str, path: str) -> None:
    if key not in item:
        raise ConfigError(f"kubernetes.patch: {path}: an element has no `{key}`, by which it would be found")
    index = next((at for at, one in enumerate(result) if isinstance(one, dict) and one.get(key) == item[key]), None)
    if item.get(DIRECTIVE) == "delete":
        if index is not None:
            del result[index]
    elif index is None:
        result.append(merged({}, item, f"{path}[{item[key]}]"))
    else:
        old = result[index]
        assert isinstance(old, dict)
        result[index] = merged(old, item, f"{path}[{item[key]}]")
