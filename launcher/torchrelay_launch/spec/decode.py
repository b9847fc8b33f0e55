"""From a tree to the models: a walk that the dataclasses' types direct, and that notes every mistake on its way."""

import dataclasses
import re
import types
import typing
from collections.abc import Iterable
from dataclasses import MISSING
from typing import Any

from torchrelay.contract.settings import Json, Later, key_of
from torchrelay.contract.units import UNITS
from torchrelay_launch.spec.limits import breaches
from torchrelay_launch.spec.names import ELSEWHERE, nearest
from torchrelay_launch.spec.places import Place, Problem
from torchrelay_launch.spec.scalars import Scalar, number, trap, truth
from torchrelay_launch.spec.tree import Entry, Mapping, Node, Sequence
from torchrelay_launch.spec.units import decode_unit

BAD: Any = object()  # stands for a value that could not be read; its problem is noted
# Where what a part of the spec does not know can be said instead.
_SEE_ALSO = {"slurm": "; any other option of sbatch goes under `slurm.extra`, by its long name"}
_PLAIN_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}


class Decoded:
    """What the walk has found: problems, and for every dotted path the value, its node and its key."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        self.values: dict[str, Any] = {}  # what could be read
        self.nodes: dict[str, Node] = {}
        self.keys: dict[str, Place] = {}
        self.unknown: set[str] = set()  # paths of models with an unknown key, which may be a missing one mistyped

    def problem(self, place: Place, text: str, hint: str = "") -> Any:
        """Note a problem. Returns: BAD."""
        self.problems.append(Problem(place, text, hint))
        return BAD

    def has(self, path: str) -> bool:
        """Whether something other than null is written there, good or bad."""
        node = self.nodes.get(path)
        return node is not None and not (isinstance(node, Scalar) and node.null)

    def place(self, path: str) -> Place:
        """Where the key of a path is written, or else its value."""
        return self.keys.get(path) or self.nodes[path].place


def decode(kind: Any, node: Node, path: str, out: Decoded) -> Any:
    """The value of type `kind` that a node holds, or BAD. `path`: dotted, for the notes."""
    out.nodes[path] = node
    value = _decode(kind, node, path, out)
    if value is not BAD:
        out.values[path] = value
    return value


def _decode(kind: Any, node: Node, path: str, out: Decoded) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Json:
        return _json(node, path, out)
    if kind is Later:
        return node
    if origin in (typing.Union, types.UnionType):
        return _union(arguments, node, path, out)
    if isinstance(node, Scalar) and node.null:
        return _nothing(kind, node, path, out)
    if origin is list:
        return _list(arguments[0], node, path, out)
    if origin is dict:
        return _dict(arguments[1], node, path, out)
    if kind in UNITS:
        return _unit(kind, node, path, out)
    if dataclasses.is_dataclass(kind):
        return _model(kind, node, path, out)
    if not isinstance(node, Scalar):
        return _mismatch(kind, node, path, out)
    return _choice(arguments, node, path, out) if origin is typing.Literal else _plain(kind, node, path, out)


def _model(cls: Any, node: Node, path: str, out: Decoded) -> Any:
    if not isinstance(node, Mapping):
        hint = f"write {{target: {node.text[:60]}}}" if isinstance(node, Scalar) and "target" in keys_of(cls) else ""
        return _mismatch(cls, node, path, out, hint)
    fields = keys_of(cls)
    given = {}
    for key, entry in node.entries.items():
        if key in fields:
            given[fields[key].name] = _field(fields[key], entry, _join(path, key), out)
        else:
            _unknown(entry.key, path, list(fields), [name for name in fields if name not in node.entries], out)
    missing = [key for key, one in fields.items() if _required(one) and key not in node.entries]
    mistyped = {nearest(key, fields) for key in node.entries if key not in fields} if path in out.unknown else set()
    for key in [key for key in missing if key not in mistyped]:
        hint = f"add `{key}:`{_such_as(fields[key])}"
        out.problem(out.keys.get(path, node.place), f"{_where(path)}the key `{key}` is missing", hint)
    return BAD if missing or any(value is BAD for value in given.values()) else cls(**given)


def _field(spec_field: Any, entry: Entry, path: str, out: Decoded) -> Any:
    out.keys[path] = entry.key.place
    value = decode(spec_field.type, entry.value, path, out)
    broken = list(breaches(spec_field.metadata["limits"], value, entry.value, path)) if value is not BAD else []
    for place, text in broken:
        out.values.pop(path, None)
        such_as = "" if spec_field.metadata["example"] in text else _such_as(spec_field).lstrip()
        out.problem(place, text, such_as)
    return BAD if broken else value


def _union(arms: tuple[Any, ...], node: Node, path: str, out: Decoded) -> Any:
    if isinstance(node, Scalar) and node.null:
        optional = type(None) in arms and not node.empty
        return None if optional else _nothing(_first(arms), node, path, out, optional=type(None) in arms)
    arms = tuple(arm for arm in arms if arm is not type(None))
    if len(arms) == 1:
        return _decode(arms[0], node, path, out)
    model = next((arm for arm in arms if dataclasses.is_dataclass(arm) and arm not in UNITS), None)
    if isinstance(node, Mapping) and model is not None:
        return _model(model, node, path, out)
    scalars = [arm for arm in arms if arm is not model]
    if isinstance(node, Scalar):
        return _decode(scalars[0], node, path, out)
    return out.problem(node.place, f"{path}: expected {_or(map(expected, arms))}, not {_kind_of(node)}")


def _list(item: Any, node: Node, path: str, out: Decoded) -> Any:
    if not isinstance(node, Sequence):
        hint = f"write [{node.text[:60]}]" if isinstance(node, Scalar) else ""
        return _mismatch(list[item], node, path, out, hint)
    values = [decode(item, one, _join(path, str(index)), out) for index, one in enumerate(node.items)]
    return BAD if any(value is BAD for value in values) else values


def _dict(item: Any, node: Node, path: str, out: Decoded) -> Any:
    if not isinstance(node, Mapping):
        return _mismatch(dict[str, item], node, path, out)
    values = {}
    for key, entry in node.entries.items():
        found = trap(entry.key, "text")
        if found is None and entry.key.null:
            out.problem(entry.key.place, f"{_where(path)}a key is missing before the colon")
        elif found is not None:
            out.problem(entry.key.place, f"{_where(path)}{found.text}", found.hint)
        out.keys[_join(path, key)] = entry.key.place
        values[key] = decode(item, entry.value, _join(path, key), out)
    return BAD if any(value is BAD for value in values.values()) else values


def _json(node: Node, path: str, out: Decoded) -> Any:
    """Anything that JSON can hold, for arguments that only the target knows."""
    if isinstance(node, Sequence):
        return _list(Json, node, path, out)
    if isinstance(node, Mapping):
        return _dict(Json, node, path, out)
    if node.empty:
        return _nothing(Json, node, path, out, optional=True)
    if found := trap(node, "any"):
        return out.problem(node.place, f"{path}: {found.text}", found.hint)
    return scalar_value(node)


def scalar_value(node: Scalar) -> Any:
    """The value of a scalar that walks into no trap."""
    if node.kind == "null":
        return None
    if node.kind == "bool":
        return truth(node)
    return number(node) if node.kind in {"int", "float"} else node.text


def _plain(kind: Any, node: Scalar, path: str, out: Decoded) -> Any:
    if kind is str and node.kind in {"int", "float"} and not node.place.source.is_file:
        return node.text  # in a shell nobody sees quotes: `--set env.N=2` means the text
    wanted: Any = "text" if kind is str else "truth" if kind is bool else "number"
    if found := trap(node, wanted):
        return out.problem(node.place, f"{path}: {found.text}", found.hint)
    value = scalar_value(node)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    return _mismatch(kind, node, path, out, _unquoted(kind, node))


def _unquoted(kind: Any, node: Scalar) -> str:
    """A hint for a number or truth value in quotes, or a whole number with a point."""
    if kind is int and node.kind == "float" and float(node.text.replace("_", "")).is_integer():
        return f"write {int(float(node.text.replace('_', '')))}"
    pattern = {int: r"[-+]?\d+", float: r"[-+]?\d+\.?\d*([eE][-+]?\d+)?", bool: "true|false"}.get(kind)
    return "write it without quotes" if pattern and not node.plain and re.fullmatch(pattern, node.text) else ""


def _choice(choices: tuple[Any, ...], node: Scalar, path: str, out: Decoded) -> Any:
    if node.text in choices:
        return node.text
    found = nearest(node.text, choices)
    text = f"{path}: expected {_or(map(str, choices))}, not {quoted(node)}"
    return out.problem(node.place, text, f"did you mean `{found}`?" if found else "")


def _unit(kind: Any, node: Node, path: str, out: Decoded) -> Any:
    if not isinstance(node, Scalar):
        return _mismatch(kind, node, path, out)
    value, problem, hint = decode_unit(kind, node)
    return value if not problem else out.problem(node.place, f"{path}: {problem}", hint)


def _nothing(kind: Any, node: Scalar, path: str, out: Decoded, *, optional: bool = False) -> Any:
    key = path.rpartition(".")[2]
    place = out.keys.get(path, node.place) if node.empty else node.place
    if not node.empty:
        return out.problem(place, f"{path}: expected {expected(kind)}, not null", "leave the key out for its default")
    text = f"{path}: there is nothing after `{key}:`" if path in out.keys else f"{path}: there is nothing here"
    wanted = "a value" if kind is Json else expected(kind)
    instead = ", or null" if optional else ""
    return out.problem(place, f"{text}; expected {wanted}", f"write {wanted}{instead}, or leave the key out")


def _unknown(key: Scalar, path: str, valid: list[str], unused: list[str], out: Decoded) -> None:
    out.unknown.add(path)
    found = nearest(key.text, unused) or nearest(key.text, valid)
    hint = f"did you mean `{found}`?" if found else f"keys here: {', '.join(valid)}"
    hint = ELSEWHERE.get(_join(path, key.text), hint)
    hint += _SEE_ALSO.get(path, "")
    out.problem(key.place, f"{_where(path)}unknown key `{key.text[:80]}`", hint)


def _mismatch(kind: Any, node: Node, path: str, out: Decoded, hint: str = "") -> Any:
    found = quoted(node) if isinstance(node, Scalar) else _kind_of(node)
    return out.problem(node.place, f"{path or 'the spec'}: expected {expected(kind)}, not {found}", hint)


def keys_of(cls: Any) -> dict[str, Any]:
    """The fields of a model by their names in YAML."""
    return {key_of(one): one for one in dataclasses.fields(cls)}


def expected(kind: Any) -> str:
    """A type in a user's words."""
    if kind in UNITS:
        return str(kind.EXPECTED)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return _or(map(str, arguments))
    if origin is list:
        return "a list"
    if origin is dict:
        return "a mapping of names to values"
    if dataclasses.is_dataclass(kind):
        required = [key for key, one in keys_of(kind).items() if _required(one)]
        return f"a mapping with {', '.join(f'`{key}`' for key in required)}" if required else "a mapping"
    return _PLAIN_NAMES.get(kind, "a value")


def quoted(node: Scalar) -> str:
    """A scalar as an error names it."""
    text = node.text if len(node.text) <= 60 else f"{node.text[:57]}..."
    return f"`{text}`" if node.plain else f'the text "{text}"'


def _kind_of(node: Node) -> str:
    return "a list" if isinstance(node, Sequence) else "a mapping" if isinstance(node, Mapping) else quoted(node)


def _or(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _first(arms: tuple[Any, ...]) -> Any:
    return next(arm for arm in arms if arm is not type(None))


def _required(spec_field: Any) -> bool:
    return spec_field.default is MISSING and spec_field.default_factory is MISSING


def _such_as(spec_field: Any) -> str:
    example = spec_field.metadata["example"]
    return f" such as {example}" if example else ""


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _where(path: str) -> str:
    return f"{path}: " if path else ""
