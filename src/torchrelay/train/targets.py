"""From `{target: ..., args: ...}` to the object. An error says where in the spec the thing is written."""

import importlib
import importlib.util
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay.contract.settings import Json
from torchrelay.contract.training import Target

_USERS_TO_FIX = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError, FileExistsError)


@dataclass(frozen=True)
class Builder:
    """Builds targets of one spec. `sources` says where values were written: "train.model.target" -> "x.yaml:12:13"."""

    sources: Mapping[str, str] = field(default_factory=dict)

    def build(self, target: Target, where: str, *positional: Any, **named: Any) -> Any:
        """Import and call a target. Values of `args` that are targets themselves are built first.

        `positional` come before the target's own args; `named` are added unless the args have them.
        Raises: ConfigError naming `where`, such as train.model, and its place in the spec.
        """
        made = self.load(target.target, f"{where}.target")
        if not callable(made):
            raise self.error(f"{where}.target", f"{target.target} is a {type(made).__name__} and can't be called")
        own = {key: self._value(value, f"{where}.args.{key}") for key, value in target.args.items()}
        arguments = {**named, **own}
        self._check_arguments(made, target.target, where, (positional, arguments))
        return self._call(made, target.target, where, (positional, arguments))

    def load(self, path: str, where: str) -> Any:
        """The object at an import path, `package.module.name` or `package.module:name`. Raises: ConfigError."""
        name, _, rest = path.partition(":") if ":" in path else path.partition(".")
        found = self._module(name, path, where)
        for part in rest.split("."):
            found = self._member(found, name, part, (path, where))
            name = f"{name}.{part}"
        return found

    def error(self, where: str, text: str) -> ConfigError:
        """An error about the value at a dotted path of the spec, with the nearest known place."""
        known = next((path for path in _and_parents(where) if path in self.sources), None)
        place = f"{self.sources[known]}: " if known else ""
        return ConfigError(f"{place}{where}: {text}")

    def _value(self, value: Json, where: str) -> Any:
        if isinstance(value, dict):
            if "target" in value and isinstance(value["target"], str) and not value.keys() - {"target", "args"}:
                inner = value.get("args") or {}
                if not isinstance(inner, dict):
                    raise self.error(f"{where}.args", f"expected arguments by name, got {inner!r}")
                return self.build(Target(value["target"], inner), where)
            return {key: self._value(item, f"{where}.{key}") for key, item in value.items()}
        if isinstance(value, list):
            return [self._value(item, f"{where}.{i}") for i, item in enumerate(value)]
        return value

    def _module(self, name: str, path: str, where: str) -> Any:
        try:
            return importlib.import_module(name)
        except ModuleNotFoundError as error:
            missing = error.name or name
            if missing == name or name.startswith(f"{missing}."):
                hint = "; is it installed, and does the job start in the folder that holds it?"
                raise self.error(where, f"{path}: there is no module {missing!r}{hint}") from error
            raise self.error(where, f"{path}: {name} needs the module {missing!r}, which is not there") from error
        except TorchrelayError:
            raise
        except Exception as error:
            raise self.error(where, f"{path}: importing {name} failed: {_describe(error)}") from error

    def _member(self, owner: Any, owner_name: str, part: str, asked: tuple[str, str]) -> Any:
        """An attribute, or a submodule that has not been imported yet."""
        if hasattr(owner, part):
            return getattr(owner, part)
        path, where = asked
        if hasattr(owner, "__path__") and importlib.util.find_spec(f"{owner_name}.{part}") is not None:
            return self._module(f"{owner_name}.{part}", path, where)
        near = nearest(part, [name for name in dir(owner) if not name.startswith("_")])
        hint = f"; did you mean {owner_name}.{near}?" if near else ""
        raise self.error(where, f"{path}: {owner_name} has no {part!r}{hint}")

    def _check_arguments(self, made: Any, path: str, where: str, arguments: tuple[Any, dict[str, Any]]) -> None:
        positional, named = arguments
        try:
            signature = inspect.signature(made)
        except (TypeError, ValueError):  # some builtins have none; the call itself will tell
            return
        parameters = [p for p in signature.parameters.values() if p.kind is not p.POSITIONAL_ONLY]
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            names = [p.name for p in parameters][len(positional) :]
            for name in named:
                if name not in names:
                    raise self.error(
                        f"{where}.args.{name}", f"{path} takes no argument {name!r}{_instead(name, names)}"
                    )
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            raise self.error(f"{where}.args", f"{path}: {error}") from error

    def _call(self, made: Callable[..., Any], path: str, where: str, arguments: tuple[Any, dict[str, Any]]) -> Any:
        positional, named = arguments
        try:
            return made(*positional, **named)
        except ConfigError as error:
            raise self.error(where, f"{path}: {error}") from error
        except (TorchrelayError, MemoryError):
            raise
        except OSError as error:
            if isinstance(error, _USERS_TO_FIX):
                raise self.error(where, f"{path}: {error}") from error
            raise  # a disk or a network in trouble: starting again may help
        except Exception as error:
            given = ", ".join(f"{name}={value!r:.60}" for name, value in named.items())
            refused = f"{path} refused its arguments{f' ({given})' if given else ''}: {_describe(error)}"
            raise self.error(where, refused) from error


def with_auto(args: dict[str, Json], value: int) -> dict[str, Json]:
    """Arguments in which every `auto`, however deep, is replaced by a number."""

    def replaced(item: Json) -> Json:
        if item == "auto":
            return value
        if isinstance(item, dict):
            return {key: replaced(inner) for key, inner in item.items()}
        return [replaced(inner) for inner in item] if isinstance(item, list) else item

    return {key: replaced(item) for key, item in args.items()}


def nearest(word: str, words: list[str]) -> str | None:
    """The word that was most likely meant, if one is close."""
    import difflib

    folded = {other.lower(): other for other in words}
    close = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def _and_parents(where: str) -> Iterator[str]:
    """A dotted path and then what it lies in: a.b.0.c, a.b.0, a.b, a."""
    while where:
        yield where
        where = where.rpartition(".")[0]


def _instead(name: str, names: list[str]) -> str:
    near = nearest(name, names)
    if near:
        return f"; did you mean {near!r}?"
    return f"; it takes {', '.join(names)}" if names else "; it takes none"


def _describe(error: Exception) -> str:
    """An error in one line, with where it was raised: there is no traceback to look at."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename}:{frames[-1].lineno})" if len(frames) > 1 else ""
    kind = "" if isinstance(error, (ValueError, RuntimeError, TypeError)) else f"{type(error).__name__}: "
    return f"{kind}{error}{place}"
