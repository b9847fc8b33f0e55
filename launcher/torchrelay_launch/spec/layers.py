"""The layers of a spec, merged into one tree: what it `extends`, the file itself, and `--set` on top."""

# ruff: noqa: PTH118, PTH120 (pathlib would be a tenth of the launcher's start-up)

import os

from torchrelay_launch.spec.files import read_text
from torchrelay_launch.spec.places import Place, Problem, Source
from torchrelay_launch.spec.scalars import Scalar, trap
from torchrelay_launch.spec.tree import Entry, Mapping, Node, Sequence, parse

EXTENDS = "extends"
MAX_FILES = 32


class Layers:
    """What reading the files has found so far."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.sources: list[Source] = []


def read_layers(
    path: str, layers: Layers, *, asked_at: Place | None = None, above: tuple[str, ...] = ()
) -> Node | None:
    """The tree of a file and of all that it extends. `above`: real paths of the files that extend this one."""
    place: Place | str = asked_at or path
    real = os.path.realpath(path) if "\0" not in path else path
    if real in above:
        layers.problems.append(Problem(place, "a spec can't extend itself, also not through others"))
        return None
    if len(layers.sources) >= MAX_FILES:
        layers.problems.append(Problem(place, f"more than {MAX_FILES} files extend each other"))
        return None
    source = read_text(path, place, layers.problems)
    if source is None:
        return None
    layers.sources.append(source)
    before = len(layers.problems)
    tree = parse(source, layers.problems)
    if isinstance(tree, Mapping):
        return _with_bases(tree, path, layers, (*above, real))
    if len(layers.problems) == before:
        _no_mapping(tree, source, layers.problems)
    return None


def merge(base: Node, over: Node) -> Node:
    """`over` on top of `base`: mappings key by key; anything else, and another `target`, replaces what was there."""
    if not isinstance(base, Mapping) or not isinstance(over, Mapping) or _other_target(base, over):
        return over
    merged = Mapping(over.place, dict(base.entries))
    for key, entry in over.entries.items():
        below = base.entries.get(key)
        merged.entries[key] = Entry(entry.key, merge(below.value, entry.value)) if below else entry
    return merged


def override(tree: Mapping, setting: str, problems: list[Problem]) -> Mapping:
    """The tree with one `a.b=value` on top. An empty value takes the key out, so that its default holds."""
    path, equals, value_text = setting.partition("=")
    source = Source(f"--set {path.strip()}", setting, is_file=False)
    if not equals or not path.strip():
        hint = "write --set train.steps=500" if not equals else "name a key before the `=`"
        problems.append(Problem(Place(source, 0, 0, max(1, len(path))), "expected key=value", hint))
        return tree
    keys = keys_in(path, Place(source, 0, 0))
    for key in keys:
        if not key.text or key.text == EXTENDS:
            text = f"`{EXTENDS}` can't be set" if key.text else "a key is missing between two dots"
            problems.append(Problem(key.place, text))
            return tree
    if not value_text.strip():
        return put(tree, keys, None, problems)
    value = parse(source, problems, column=len(path) + 1)
    return tree if value is None else put(tree, keys, value, problems)


def keys_in(path: str, start: Place) -> list[Scalar]:
    """The keys of a dotted path that is written from `start` on, each with its own place."""
    keys, column = [], start.column
    for part in path.split("."):
        text = part.strip()
        keys.append(Scalar(text, "str", plain=False, place=start._replace(column=column, width=max(1, len(part)))))
        column += len(part) + 1
    return keys


def put(node: Node | None, keys: list[Scalar], value: Node | None, problems: list[Problem]) -> Mapping:
    """A copy of the mapping `node` with the value at the end of `keys`; None takes the last key out."""
    mapping = Mapping(node.place, dict(node.entries)) if isinstance(node, Mapping) else Mapping(keys[0].place, {})
    key, rest = keys[0], keys[1:]
    below = mapping.get(key.text)
    if not rest and value is None:
        mapping.entries.pop(key.text, None)
    elif not rest and value is not None:
        mapping.entries[key.text] = Entry(key, value)
    elif isinstance(below, Sequence):
        mapping.entries[key.text] = Entry(mapping.entries[key.text].key, _put_item(below, rest, value, problems))
    elif below is not None or value is not None:
        written = mapping.entries[key.text].key if below is not None else key
        mapping.entries[key.text] = Entry(written, put(below, rest, value, problems))
    return mapping


def _put_item(sequence: Sequence, keys: list[Scalar], value: Node | None, problems: list[Problem]) -> Sequence:
    key, rest = keys[0], keys[1:]
    items = list(sequence.items)
    if not key.text.isdecimal() or int(key.text[:9]) >= len(items):
        valid = f"0 to {len(items) - 1}" if items else "none, the list is empty"
        problems.append(Problem(key.place, f"expected the index of a list's item, not `{key.text}`", f"valid: {valid}"))
        return sequence
    index = int(key.text)
    if not rest and value is None:
        del items[index]
    elif not rest and value is not None:
        items[index] = value
    elif isinstance(below := items[index], Sequence):
        items[index] = _put_item(below, rest, value, problems)
    else:
        items[index] = put(below, rest, value, problems)
    return Sequence(sequence.place, items)


def _with_bases(tree: Mapping, path: str, layers: Layers, above: tuple[str, ...]) -> Node | None:
    entry = tree.entries.pop(EXTENDS, None)
    merged: Node | None = None
    for name in _names(entry.value, layers.problems) if entry else []:
        base = read_layers(os.path.join(os.path.dirname(path), name.text), layers, asked_at=name.place, above=above)
        if base is not None:
            merged = base if merged is None else merge(merged, base)
    return tree if merged is None else merge(merged, tree)


def _names(node: Node, problems: list[Problem]) -> list[Scalar]:
    """The files that `extends` names."""
    names = []
    for one in node.items if isinstance(node, Sequence) else [node]:
        found = trap(one, "text") if isinstance(one, Scalar) else None
        if not isinstance(one, Scalar) or one.null or not one.text.strip() or found:
            hint = found.hint if found else "write extends: base.yaml, or a list of files"
            problems.append(Problem(one.place, f"{EXTENDS}: expected the path of a spec", hint))
        else:
            names.append(one)
    return names


def _no_mapping(tree: Node | None, source: Source, problems: list[Problem]) -> None:
    if tree is None or (isinstance(tree, Scalar) and tree.null):
        problems.append(Problem(source.name, "the spec is empty", "a spec begins with `name:`; see docs/spec.md"))
    else:
        what = "a list" if isinstance(tree, Sequence) else "text"
        problems.append(Problem(tree.place, f"expected a mapping of keys to values, not {what}", "begin with `name:`"))


def _other_target(base: Mapping, over: Mapping) -> bool:
    one, other = base.get("target"), over.get("target")
    if not isinstance(one, Scalar) or not isinstance(other, Scalar):
        return False
    return one.text != other.text
