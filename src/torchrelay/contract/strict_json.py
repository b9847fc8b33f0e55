"""JSON as checkpoints use it: no spaces, ASCII only, no NaN or Infinity, and reading that refuses anything else.

In its canonical form keys are sorted, too. Then equal values have equal bytes, so that a hash of the bytes is a hash of
the value. A state is written as it is, since the order of a dict is part of it.
"""

import json
from typing import Any, NoReturn

from torchrelay.contract.errors import CheckpointError
from torchrelay.contract.settings import Json


def canonical(value: Json) -> bytes:
    """The canonical bytes of a value. Raises: ValueError for NaN and Infinity."""
    return _bytes(value, sort_keys=True)


def in_order(value: Json) -> bytes:
    """The bytes of a value with its keys in the order that they have. Raises: ValueError for NaN and Infinity."""
    return _bytes(value, sort_keys=False)


def parse(data: bytes, where: str) -> Any:
    """The value that `data` holds. Raises: CheckpointError, naming `where`, for anything that is not strict JSON."""
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise CheckpointError(f"{where}: nested too deep") from None
    except (ValueError, MemoryError) as error:
        raise CheckpointError(f"{where}: not valid JSON: {error}") from None


def _bytes(value: Json, sort_keys: bool) -> bytes:
    return json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False).encode("ascii")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")
