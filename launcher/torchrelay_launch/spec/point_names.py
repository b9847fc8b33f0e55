"""Short names for what a sweep sets: `lr` for `train.optimizer.args.lr`, and `lr=0.1 seed=2` for a point."""

from collections.abc import Iterable, Mapping

from torchrelay.contract.settings import Json


def short_names(fields: Iterable[str]) -> dict[str, str]:
    """For each dotted field its last words, as many as tell it from the others; a list's index never stands alone."""
    fields = list(fields)
    return {field: _shortest(field, fields) for field in fields}


def label(values: Mapping[str, Json], fields: Iterable[str] | None = None) -> str:
    """A point in one line. `fields`: all fields of the sweep, in their order, where the point sets only some."""
    names = short_names(values if fields is None else fields)
    return " ".join(f"{name}={shown(values[field])}" for field, name in names.items() if field in values)


def shown(value: Json) -> str:
    """A value as a table shows it: text as it is, everything else as JSON without blanks."""
    if isinstance(value, str):
        return value
    import json

    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _shortest(field: str, fields: list[str]) -> str:
    words = field.split(".")
    for count in range(1, len(words)):
        name = ".".join(words[-count:])
        alone = sum(other == name or other.endswith(f".{name}") for other in fields) == 1
        if alone and not words[-count].isdecimal():
            return name
    return field
