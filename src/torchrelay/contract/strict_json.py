"""JSON as checkpoints use it: one canonical form, and reading that refuses whatever that form does not have.

Canonical is: keys sorted, no spaces, ASCII only, no NaN or Infinity. Equal values have equal bytes, so that a hash of
the bytes is a hash of the value.
"""

import json
from typing import Any, NoReturn

from torchrelay.contract.errors import CheckpointError
from torchrelay.contract.settings import Json


def canonical(value: Json) -> bytes:
    """The canonical bytes of a value. Raises: ValueError for NaN and Infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse(data: bytes, where: str) -> Any:
    """The value that `data` holds. Raises: CheckpointError, naming `where`, for anything that is not strict JSON."""
    try:
        return json.loads(data, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise CheckpointError(f"{where}: nested too deep") from None
    except (ValueError, MemoryError) as error:
        raise CheckpointError(f"{where}: not valid JSON: {error}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not allowed")
