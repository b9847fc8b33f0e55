"""The JSON Schema of job specs, made from the models: `python -m torchrelay_launch.spec.schema` writes it.

Editors complete and check specs with it. It can say less than the reader: nothing about YAML's traps, and of the rules
between keys only which exclude each other.
"""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

import yaml

from torchrelay.contract.settings import Json, Later, Limits, key_of, to_json
from torchrelay.contract.training import Train
from torchrelay.contract.units import Duration, Interval, NodeCount, Size
from torchrelay_launch.spec.models import JobSpec

PATH = Path(__file__).with_name("job.schema.json")
REFRESH = "python -m torchrelay_launch.spec.schema"

_TIME = r"([0-9]+(\.[0-9]+)?[smhd])+"
_UNIT_PATTERNS = {
    Duration: _TIME,
    Size: r"[0-9]+(\.[0-9]+)? ?([KMGT]i?B|B)",
    Interval: rf"([0-9]+ steps?( +or +{_TIME})?|{_TIME}( +or +[0-9]+ steps?)?|auto)",
}
_ONE_OF = {JobSpec: ("train", "script", "module"), Train: ("epochs", "steps")}
_PLAIN = {bool: "boolean", int: "integer", float: "number", str: "string"}
_EXTENDS = {
    "description": "Another spec, or several, that this one builds on; paths are relative to this file.",
    "oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
}


def job_schema() -> dict[str, Any]:
    """The schema, as plain JSON. A spec that extends another, or sweeps, may leave out anything, at any depth."""
    definitions: dict[str, Any] = {}
    root = _model(JobSpec, definitions)
    root["properties"] = {"extends": _EXTENDS, **root["properties"]}
    complete = _complete(JobSpec, definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "torchrelay job spec",
        **root,
        "if": {"not": {"anyOf": [{"required": ["extends"]}, {"required": ["sweep"]}]}},
        "then": complete,
        "$defs": dict(sorted(definitions.items())),
    }


def dump(schema: dict[str, Any]) -> str:
    """The schema as the text of its file."""
    import json

    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def _complete(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """What must be there beside what may: a schema that speaks of required keys only."""
    parts = {key_of(one): _complete_type(one.type, definitions) for one in dataclasses.fields(cls)}
    required = [key_of(one) for one in dataclasses.fields(cls) if _required(one)]
    schema: dict[str, Any] = {"required": required} if required else {}
    schema |= {"properties": {key: part for key, part in parts.items() if part}} if any(parts.values()) else {}
    return schema | _exactly_one(*_ONE_OF[cls]) if cls in _ONE_OF else schema


def _complete_type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is list:
        items = _complete_type(arguments[0], definitions)
        return {"items": items} if items else {}
    if origin in (typing.Union, types.UnionType):
        return next((found for arm in arguments if (found := _complete_type(arm, definitions))), {})
    if not dataclasses.is_dataclass(kind) or kind in _UNIT_PATTERNS or kind is NodeCount:
        return {}
    name = f"Complete{typing.cast('type', kind).__name__}"
    if name not in definitions:
        found = _complete(kind, definitions)
        if not found:
            return {}
        definitions[name] = found
    return {"$ref": f"#/$defs/{name}"}


def _exactly_one(*keys: str) -> dict[str, Any]:
    """One of the keys of a mapping has a value; null counts as left out."""
    arms = [{"required": [key], "properties": {key: {"not": {"type": "null"}}}} for key in keys]
    return {"if": {"type": "object"}, "then": {"oneOf": arms}}


def _required(spec_field: Any) -> bool:
    return spec_field.default is dataclasses.MISSING and spec_field.default_factory is dataclasses.MISSING


def _model(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    return {
        "description": " ".join((cls.__doc__ or "").split()),
        "type": "object",
        "additionalProperties": False,
        "properties": {key_of(one): _property(one, definitions) for one in dataclasses.fields(cls)},
    }


def _property(spec_field: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = {"description": spec_field.metadata["doc"], **_type(spec_field.type, definitions)}
    _limit(schema, spec_field.metadata["limits"])
    if spec_field.metadata["example"]:
        schema["examples"] = [yaml.safe_load(spec_field.metadata["example"])]
    if spec_field.default is not dataclasses.MISSING and spec_field.default is not None:
        schema["default"] = to_json(spec_field.default)
    elif spec_field.default_factory is not dataclasses.MISSING:
        value = spec_field.default_factory()
        if not dataclasses.is_dataclass(value) or isinstance(value, (NodeCount, Interval)):
            schema["default"] = to_json(value)
    return schema


def _limit(schema: dict[str, Any], limits: Limits) -> None:
    """Add limits to the arm of a type that they are about."""
    arms = schema.get("anyOf", [schema])
    for arm in arms:
        if arm.get("type") in {"integer", "number"}:
            bounds = {"minimum": limits.minimum, "maximum": limits.maximum}
            arm.update({name: bound for name, bound in bounds.items() if bound is not None})
        if arm.get("type") == "string" and limits.pattern:
            arm["pattern"] = f"^(?:{limits.pattern})$"
        if limits.keys:
            arm["propertyNames"] = {"pattern": f"^(?:{limits.keys})$"}
        for below in ("items", "additionalProperties"):
            if isinstance(arm.get(below), dict):
                _limit(arm[below], limits)


def _type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Json, Later):
        return {}
    if origin in (typing.Union, types.UnionType):
        return {"anyOf": [_type(arm, definitions) for arm in arguments]}
    if origin is typing.Literal:
        return {"type": "string", "enum": list(arguments)}
    if origin is list:
        return {"type": "array", "items": _type(arguments[0], definitions)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _type(arguments[1], definitions) or True}
    return _one_type(kind, definitions)


def _one_type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind is type(None):
        return {"type": "null"}
    if kind is NodeCount:
        return {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^[0-9]+(\.\.[0-9]+)?$"}]}
    if kind in _UNIT_PATTERNS:
        return {"type": "string", "pattern": f"^{_UNIT_PATTERNS[kind]}$"}
    if dataclasses.is_dataclass(kind):
        name = typing.cast("type", kind).__name__
        if name not in definitions:
            definitions[name] = {}  # stands in while its own parts are made
            definitions[name] = _model(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    return {"type": _PLAIN[kind]}


if __name__ == "__main__":
    PATH.write_text(dump(job_schema()), encoding="utf-8")
