"""The limits of a field's value, beyond its type, and where they are broken."""

import re
from collections.abc import Iterator
from typing import Any

from torchrelay.contract.settings import Limits
from torchrelay_launch.spec.places import Place
from torchrelay_launch.spec.tree import Mapping, Node, Sequence


def breaches(limits: Limits, value: Any, node: Node, path: str) -> Iterator[tuple[Place, str]]:
    """Where a value breaks its field's limits, and how; a list or a mapping in any of its values."""
    if isinstance(node, Mapping) and isinstance(value, dict):
        for key, entry in node.entries.items():
            if limits.keys and not re.fullmatch(limits.keys, key):
                yield entry.key.place, f"{path}: expected {limits.keys_say}, not `{key[:80]}`"
            yield from breaches(limits, value[key], entry.value, f"{path}.{key}")
    elif isinstance(node, Sequence) and isinstance(value, list):
        for index, (item, one) in enumerate(zip(value, node.items, strict=True)):
            yield from breaches(limits, item, one, f"{path}.{index}")
    elif broken := _breach(limits, value):
        yield node.place, f"{path}: {broken}"


def _breach(limits: Limits, value: Any) -> str | None:
    if isinstance(value, str) and limits.pattern and not re.fullmatch(limits.pattern, value):
        return f"expected {limits.pattern_says}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if limits.minimum is not None and value < limits.minimum:
            return f"expected at least {limits.minimum:g}, not {value}"
        if limits.maximum is not None and value > limits.maximum:
            return f"expected at most {limits.maximum:g}, not {value}"
    return None
