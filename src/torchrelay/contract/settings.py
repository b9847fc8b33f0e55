"""Settings: dataclass fields with a doc and limits, and dataclasses to and from plain JSON.

The spec's models are plain dataclasses whose fields are made by `setting`. The launcher's reader, the JSON Schema and
the spec reference read the same metadata; ranks use `from_json` on what the launcher has already checked.
"""

import dataclasses
import types
import typing
from dataclasses import MISSING, field
from typing import Any, TypeVar

from torchrelay.contract.units import UNITS

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Limits:
    """What a setting's value must satisfy beyond its type; of a list or a mapping, each of its values."""

    minimum: float | None = None
    maximum: float | None = None
    pattern: str | None = None  # a regular expression that the whole text matches
    pattern_says: str = ""  # the pattern in words, for errors
    keys: str | None = None  # a regular expression that every key of a mapping matches
    keys_say: str = ""  # the same in words


class Later:
    """As a type: a value that cannot be read yet, because what it is for is only known later. See a spec's `sweep:`."""


def setting(
    default: Any = MISSING,
    *,
    doc: str,
    example: str = "",
    limits: Limits | None = None,
    key: str = "",
) -> Any:
    """A field of a spec model. A default that is a class or function is called to make the value.

    `doc` and `example` go into the reference and the schema; `key` is the name in YAML where it differs.
    """
    metadata = {"doc": doc, "example": example, "limits": limits or Limits(), "key": key}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


def key_of(spec_field: "dataclasses.Field[Any]") -> str:
    """The name of a field in YAML and JSON."""
    return spec_field.metadata.get("key") or spec_field.name


def to_json(value: Any) -> Json:
    """Dataclasses, units and plain values as plain JSON. Fields that have their default are kept."""
    if dataclasses.is_dataclass(value) and not isinstance(value, (type, *UNITS)):
        return {key_of(f): to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, UNITS):
        return str(value)
    if isinstance(value, dict):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return typing.cast("Json", value)


def from_json(cls: type[T], value: Json) -> T:
    """The object of type `cls` that `to_json` made `value` from. Raises: ValueError, TypeError on anything else."""
    return typing.cast("T", _decode(cls, value))


def field_types(cls: type) -> dict[str, Any]:
    """The resolved type of every field of a dataclass."""
    return typing.get_type_hints(cls)


def _decode(cls: Any, value: Any) -> Any:
    if cls in UNITS:
        return cls.parse(str(value))
    if dataclasses.is_dataclass(cls):
        hints = field_types(typing.cast("type", cls))
        names = {key_of(f): f.name for f in dataclasses.fields(cls)}
        return typing.cast("type", cls)(**{names[key]: _decode(hints[names[key]], item) for key, item in value.items()})
    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    if origin is list:
        return [_decode(arguments[0], item) for item in value]
    if origin is dict:
        return {key: _decode(arguments[1], item) for key, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        return _decode_union(arguments, value)
    return value


def _decode_union(arguments: tuple[Any, ...], value: Any) -> Any:
    """None, a plain value or one model: the unions that specs use."""
    if value is None:
        return None
    models = [a for a in arguments if dataclasses.is_dataclass(a) and a not in UNITS]
    if isinstance(value, dict) and models:
        return _decode(models[0], value)
    plain = [a for a in arguments if a is not type(None) and a not in models]
    return _decode(plain[0], value) if len(plain) == 1 else value
