"""The reference of job specs, made from the models: `python -m torchrelay_launch.spec.reference` writes it."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any

from torchrelay.contract.settings import Json, Later, Limits, key_of, to_json
from torchrelay.contract.training import Target
from torchrelay.contract.units import Duration, Interval, NodeCount, Size
from torchrelay_launch.spec.models import JobSpec

REFRESH = "python -m torchrelay_launch.spec.reference"
PATH = Path(__file__).parents[3] / "docs" / "spec.md"  # in a checkout; the docs are not in the wheel
INTRODUCTION = Path(__file__).with_name("reference_intro.md")

_UNITS = {Duration: "duration", Size: "size", NodeCount: "nodes", Interval: "interval"}
_PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "null"}


def reference() -> str:
    """The whole page as Markdown."""
    models = _models()
    sections = [_section(cls, models) for cls in models]
    return "\n\n".join([INTRODUCTION.read_text(encoding="utf-8").rstrip(), *sections]) + "\n"


def _models() -> dict[Any, str]:
    """Every model, in the order in which a reader meets them, with the path of the key that holds it first."""
    found: dict[Any, str] = {}

    def add(cls: Any, path: str) -> None:
        if cls in found:
            return
        found[cls] = path
        for one in dataclasses.fields(cls):
            key = f"{path}.{key_of(one)}" if path else key_of(one)
            for part in _models_in(one.type):
                add(part, key)

    add(JobSpec, "")
    target = found.pop(Target)
    return {**found, Target: target}


def _models_in(kind: Any) -> list[Any]:
    if dataclasses.is_dataclass(kind) and kind not in _UNITS:
        return [kind]
    return [model for arm in typing.get_args(kind) if arm is not Json for model in _models_in(arm)]


def _section(cls: Any, models: dict[Any, str]) -> str:
    path = models[cls]
    title = "Targets" if cls is Target else f"`{path}`" if path else "Top level"
    rows = [_row(one, models) for one in dataclasses.fields(cls)]
    head = "| key | type | default | what it is |\n|---|---|---|---|"
    return f"## {title}\n\n{' '.join(cls.__doc__.split())}\n\n{head}\n" + "\n".join(rows)


def _row(spec_field: Any, models: dict[Any, str]) -> str:
    metadata = spec_field.metadata
    doc = metadata["doc"]
    if metadata["example"]:
        doc += f" Example: {_code(metadata['example'])}"
    cells = (
        _code(key_of(spec_field)),
        _limited(_type(spec_field.type, models), metadata["limits"]),
        _default(spec_field),
        doc,
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(spec_field: Any) -> str:
    if spec_field.default is not dataclasses.MISSING:
        return "" if spec_field.default is None else _code(_yaml(spec_field.default))
    if spec_field.default_factory is dataclasses.MISSING:
        return "**required**"
    value = spec_field.default_factory()
    return "its own defaults" if _models_in(type(value)) else _code(_yaml(value))


def _yaml(value: Any) -> str:
    plain = to_json(value)
    if isinstance(plain, bool):
        return str(plain).lower()
    return str(plain)


def _limited(text: str, limits: Limits) -> str:
    if limits.minimum is not None and limits.maximum is not None:
        return f"{text}, {limits.minimum:g} to {limits.maximum:g}"
    if limits.minimum is not None:
        return f"{text}, at least {limits.minimum:g}"
    return f"{text}: {limits.pattern_says}" if limits.pattern_says else text


def _type(kind: Any, models: dict[Any, str]) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind in (Json, Later):
        return "anything"
    if origin in (typing.Union, types.UnionType):
        arms = [arm for arm in arguments if arm is not type(None)]
        return " or ".join(_type(arm, models) for arm in arms)
    if origin is typing.Literal:
        return ", ".join(map(_code, arguments))
    if origin is list:
        return f"list of {_type(arguments[0], models)}"
    if origin is dict:
        return f"mapping of names to {_type(arguments[1], models)}"
    if kind in _UNITS:
        return f"[{_UNITS[kind]}](#values)"
    if dataclasses.is_dataclass(kind):
        return "[target](#targets)" if kind is Target else f"[mapping](#{models[kind].replace('.', '')})"
    return _PLAIN[kind]


def _code(text: str) -> str:
    return f"`` {text} ``" if "`" in text else f"`{text}`"


if __name__ == "__main__":
    PATH.write_text(reference(), encoding="utf-8")
