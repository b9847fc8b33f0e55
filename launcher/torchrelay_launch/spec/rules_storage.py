"""Rules for `storage:` and `storage_options:`."""

from collections.abc import Iterator

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.storage_options import OWN, secrets_in, split
from torchrelay_launch.spec.decode import Decoded
from torchrelay_launch.spec.places import Place
from torchrelay_launch.spec.scalars import Scalar
from torchrelay_launch.spec.tree import Mapping, Node, Sequence

_SECTION = "storage_options"


def check_storage(found: Decoded) -> None:
    """Add problems of storage and its options: secrets written down, and bad values of torchrelay's own."""
    for path, place, _ in _secrets(found):
        text = f"{path}: this looks like a secret, and a spec is stored with the run"
        hint = "take it out: leave it in the environment and name that variable under `secrets:`, or use a profile"
        found.problem(place, text, hint)
    for name in OWN:
        path = f"{_SECTION}.{name}"
        if path in found.values:
            try:
                split({name: found.values[path]})
            except ConfigError as error:
                found.problem(found.nodes[path].place, str(error))


def storage_secrets(found: Decoded) -> list[str]:
    """The texts of options, and of a URL, that look like secrets."""
    return [line.strip() for *_, scalar in _secrets(found) for line in scalar.text.splitlines()]


def _secrets(found: Decoded) -> list[tuple[str, Place, Scalar]]:
    """Path, place of the key, and value of all that looks like a secret, whether or not it could be read."""
    leaves: list[tuple[str, str, Place, Scalar]] = []
    url, options = found.nodes.get("storage"), found.nodes.get(_SECTION)
    if isinstance(url, Scalar):
        leaves.append(("storage", "", url.place, url))
    if isinstance(options, Mapping):
        leaves += _leaves(options, _SECTION, "", options.place)
    return [(path, place, scalar) for path, key, place, scalar in leaves if secrets_in({key: _value(scalar)})]


def _leaves(node: Node, path: str, key: str, place: Place) -> Iterator[tuple[str, str, Place, Scalar]]:
    """Every scalar with its path, and the last key on the way to it with that key's place."""
    if isinstance(node, Scalar):
        yield path, key, place, node
    elif isinstance(node, Sequence):
        for index, item in enumerate(node.items):
            yield from _leaves(item, f"{path}.{index}", key, place)
    else:
        for name, entry in node.entries.items():
            yield from _leaves(entry.value, f"{path}.{name}", name, entry.key.place)


def _value(scalar: Scalar) -> str | bool | None:
    """Neither null nor a truth value is a secret."""
    return None if scalar.null else True if scalar.kind == "bool" else scalar.text
