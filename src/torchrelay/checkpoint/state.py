"""Nested state to JSON plus named tensors, and back. Nothing in it can run code.

Dicts, lists, tuples, texts, numbers, booleans and None go into JSON; each tensor goes out under a name that is its
path, `optimizer/state/0/exp_avg`, with a reference left in its place. What JSON lacks is an object whose key `$` says
what it is; docs/checkpoints.md lists them. Anything else is refused with its path.
"""

import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from torchrelay.checkpoint.dtypes import dtype_name
from torchrelay.contract.errors import CheckpointError, ConfigError
from torchrelay.contract.settings import Json

TAG = "$"
_DEEPEST = 50  # levels of nesting in a state; its JSON can have three for each
_JSON_INT = 2**53  # larger numbers are written in hexadecimal: other JSON readers would round them
_RESERVED = ("rank", "__metadata__")  # first parts of names that mean something else
_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


@dataclass
class Encoded:
    """A nested state taken apart: the JSON, the tensors by name, and which of them are a module's."""

    json: Json
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    weights: set[str] = field(default_factory=set)


def encode(state: Mapping[str, Any], prefix: str = "") -> Encoded:
    """Take a state apart. The tensors are the state's own, not copies; their names begin with `prefix`.

    Raises: ConfigError, with the path, for the first value that cannot be saved.
    """
    encoder = _Encoder(prefix)
    encoder.out.json = encoder.mapping(state, _Place("", prefix, prefix == "", False, 0))
    return encoder.out


def decode(value: Json, tensors: Mapping[str, torch.Tensor], where: str) -> Any:
    """The state that `encode` took apart. Raises: CheckpointError, naming `where`, for what it cannot have made."""
    return _Decoder(tensors, where).value(value, 0)


def tensor_name(*path: Any) -> str:
    """The name of the tensor at a path of keys into the shared state: ("model", "fc.weight") -> "model/fc.weight"."""
    parts = [_name_part(key) for key in path]
    if parts[0] in _RESERVED:
        parts[0] = f"%{ord(parts[0][0]):02X}{parts[0][1:]}"
    return "/".join(parts)


@dataclass(frozen=True)
class _Place:
    """Where the encoder is: for errors (`optimizer.state[0]`), for names (`optimizer/state/0`), and under what."""

    path: str
    name: str
    top: bool
    weights: bool
    depth: int

    def below(self, key: Any, weights: bool | None = None) -> "_Place":
        if not self.path:
            path = str(key)
        elif self.depth == 1 and isinstance(key, str) and key.isidentifier():
            path = f"{self.path}.{key}"
        else:
            path = f"{self.path}[{key!r}]"
        name = tensor_name(key) if self.top else self.name + _name_part(key)
        weights = self.weights if weights is None else weights
        return _Place(path, f"{name}/", False, weights, self.depth + 1)


class _Encoder:
    def __init__(self, prefix: str) -> None:
        self.out = Encoded(None)
        self._may_be_weights = prefix == ""

    def value(self, value: Any, place: _Place) -> Json:
        if value is None or type(value) is bool or type(value) is str:
            return value
        if type(value) is int:
            return value if abs(value) <= _JSON_INT else {TAG: "int", "hex": hex(value)}
        if isinstance(value, float):  # numpy.float64 is one, and comes back as a plain float
            number = float(value)
            return number if math.isfinite(number) else {TAG: "float", "value": str(number)}
        if isinstance(value, torch.Tensor):
            return self._tensor(value, place)
        if place.depth >= _DEEPEST:
            raise ConfigError(f"`{place.path[:200]}`: nested deeper than {_DEEPEST} levels, or contains itself")
        return self._container(value, place)

    def mapping(self, value: Mapping[Any, Any], place: _Place) -> Json:
        weights = self._may_be_weights and hasattr(value, "_metadata")  # a module's state_dict
        items: list[tuple[Any, Json]] = []
        for key, item in value.items():
            if type(key) not in (str, int, bool, float, type(None)):
                raise ConfigError(f"`{place.path}`: a key of type {_type(key)} cannot be saved: {str(key)[:80]}")
            items.append((key, self.value(item, place.below(key, True if weights else None))))
        if all(type(key) is str for key, _ in items) and not any(key == TAG for key, _ in items):
            return dict(items)
        return {TAG: "dict", "items": [[self.value(key, place), item] for key, item in items]}

    def _container(self, value: Any, place: _Place) -> Json:
        kind = type(value)
        if kind in (list, tuple, torch.Size):
            items: Json = [self.value(item, place.below(index)) for index, item in enumerate(value)]
            return items if kind is list else {TAG: "tuple", "items": items}
        if kind is Counter:
            return {TAG: "counter", "of": self.mapping(value, place)}
        if kind is OrderedDict and hasattr(value, "_metadata"):
            metadata = self.value(dict(value._metadata), place.below("_metadata"))
            return {TAG: "state_dict", "of": self.mapping(value, place), "metadata": metadata}
        if isinstance(value, dict) and kind.__module__ in ("builtins", "collections"):
            return self.mapping(value, place)
        raise ConfigError(
            f"`{place.path}`: {_described(value)} cannot be saved; a state is made of tensors, dicts, lists, tuples, "
            "texts, numbers, booleans and None"
        )

    def _tensor(self, tensor: torch.Tensor, place: _Place) -> Json:
        problem = unsavable(tensor)
        if problem:
            raise ConfigError(f"`{place.path}`: {problem} cannot be saved")
        name = place.name[:-1]
        while name in self.out.tensors:  # the keys 0 and "0" of one dict
            name += "%"
        self.out.tensors[name] = tensor.detach()
        if place.weights or (self._may_be_weights and name.startswith("model/")):
            self.out.weights.add(name)
        return {TAG: "tensor", "name": name}


def unsavable(tensor: torch.Tensor) -> str | None:
    """What is special about a tensor whose bytes alone do not say all of it, or None for an ordinary one."""
    kind = type(tensor)  # by isinstance, a parameter of any class would be an nn.Parameter
    if not issubclass(kind, torch.nn.Parameter) and kind not in (torch.Tensor, torch.nn.Buffer):
        return f"a tensor of class {_type(tensor)}"
    if type(tensor).__name__.startswith("Uninitialized"):
        return "a parameter of a lazy module that has not run yet"
    if tensor.is_meta:
        return "a tensor on the meta device, which has no values,"
    if tensor.layout != torch.strided or tensor.is_nested:
        return f"a {'nested' if tensor.is_nested else str(tensor.layout).removeprefix('torch.')} tensor"
    if dtype_name(tensor.dtype) is None:
        return f"a tensor of dtype {tensor.dtype}"
    return None


class _Decoder:
    def __init__(self, tensors: Mapping[str, torch.Tensor], where: str) -> None:
        self._tensors, self._where = tensors, where

    def value(self, value: Json, depth: int) -> Any:
        if depth > 3 * _DEEPEST + 3:
            raise CheckpointError(f"{self._where}: nested too deep")
        if isinstance(value, list):
            return self._list(value, depth)
        if not isinstance(value, dict):
            return value
        if TAG not in value:
            return {key: self.value(item, depth + 1) for key, item in value.items()}
        tag = value[TAG]
        if not isinstance(tag, str) or tag not in _TAGS:
            raise CheckpointError(f"{self._where}: unknown kind of value {str(tag)[:40]!r}")
        try:
            return _TAGS[tag](self, value, depth + 1)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{self._where}: a bad {tag}: {type(error).__name__}: {str(error)[:100]}") from None

    def _tensor(self, value: dict[str, Any], _: int) -> torch.Tensor:
        name = self._text(value["name"])
        if name not in self._tensors:
            raise CheckpointError(f"{self._where}: there is no tensor {name[:80]!r}")
        return self._tensors[name]

    def _list(self, value: Any, depth: int) -> list[Any]:
        if not isinstance(value, list):
            raise CheckpointError(f"{self._where}: expected a list")
        return [self.value(item, depth + 1) for item in value]

    def _dict(self, value: dict[str, Any], depth: int) -> dict[Any, Any]:
        return dict(self._list(value["items"], depth))

    def _counter(self, value: dict[str, Any], depth: int) -> Any:
        return Counter(self._mapping(value["of"], depth))

    def _state_dict(self, value: dict[str, Any], depth: int) -> Any:
        found = OrderedDict(self._mapping(value["of"], depth))
        found._metadata = OrderedDict(self._mapping(value["metadata"], depth))  # type: ignore[attr-defined]
        return found

    def _mapping(self, value: Any, depth: int) -> dict[Any, Any]:
        found = self.value(value, depth)
        if not isinstance(found, dict):
            raise CheckpointError(f"{self._where}: expected a dict")
        return found

    def _text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise CheckpointError(f"{self._where}: expected a text")
        return value


# Functions of the decoder rather than its bound methods: those would refer to it in a ring, and keep all tensors alive
# until Python happens to look for rings.
_TAGS: dict[str, Callable[[_Decoder, dict[str, Any], int], Any]] = {
    "tensor": _Decoder._tensor,
    "tuple": lambda self, value, depth: tuple(self._list(value["items"], depth)),
    "dict": _Decoder._dict,
    "counter": _Decoder._counter,
    "state_dict": _Decoder._state_dict,
    "int": lambda self, value, _: int(self._text(value["hex"]), 16),
    "float": lambda self, value, _: _FLOATS[self._text(value["value"])],
}


def _name_part(key: Any) -> str:
    """A key as a part of a tensor's name: without the characters that have a meaning there, and in valid UTF-8."""
    text = str(key).replace("%", "%25").replace("/", "%2F").replace("@", "%40")
    return "".join(f"%u{ord(char):04X}" if "\ud800" <= char <= "\udfff" else char for char in text)


def _described(value: Any) -> str:
    if callable(value) and hasattr(value, "__name__") and not isinstance(value, type):
        return "a function"
    return f"an object of type {_type(value)}"


def _type(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
