"""A spec's text as a tree of mappings, sequences and scalars, every part with the place where it is written.

Built from YAML's events rather than by a loader: so every duplicate key, alias and tag is seen, nothing is constructed
that the text names, and depth and expansion have limits.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import yaml

from torchrelay_launch.spec.places import Place, Problem, Source
from torchrelay_launch.spec.scalars import Kind, Scalar

MAX_DEPTH = 64
MAX_PARTS = 20_000  # of the tree with all aliases written out

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = {None, "!", f"{_TAG}str", f"{_TAG}map", f"{_TAG}seq"}
_PLAIN_KINDS: tuple[Kind, ...] = ("null", "bool", "int", "float", "timestamp", "merge")
_KINDS = {f"{_TAG}{kind}": kind for kind in _PLAIN_KINDS}
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER: Any = _LOADER("")


class Sequence:
    """A list. `parts`: values in it, with aliases written out."""

    __slots__ = ("items", "parts", "place")

    def __init__(self, place: Place, items: "list[Node]") -> None:
        self.place, self.items, self.parts = place, items, 1


class Mapping:
    """Keys and values, in the order of the text. `parts`: values in it, with aliases written out."""

    __slots__ = ("entries", "parts", "place")

    def __init__(self, place: Place, entries: "dict[str, Entry]") -> None:
        self.place, self.entries, self.parts = place, entries, 1

    def get(self, key: str) -> "Node | None":
        entry = self.entries.get(key)
        return entry.value if entry else None


Node = Scalar | Sequence | Mapping


class Entry(NamedTuple):
    """A key and its value."""

    key: Scalar
    value: Node


class _GiveUpError(Exception):
    """The rest of the text can't be made sense of; the reason is among the problems."""


def parse(source: Source, problems: list[Problem], *, line: int = 0, column: int = 0) -> Node | None:
    """The tree of a text that begins at `line`, `column` of the source. None if there is nothing, or no telling what.

    What is wrong is added to `problems`.
    """
    text = source.text[column:] if column else source.text
    build = _Build(source, problems, line, column)
    try:
        return build.document(yaml.parse(text, Loader=_LOADER))
    except yaml.YAMLError as error:
        from torchrelay_launch.spec.syntax import syntax_problem

        problems.append(syntax_problem(error, source, column))
    except _GiveUpError:
        pass
    return None


class _Build:
    def __init__(self, source: Source, problems: list[Problem], line: int, column: int) -> None:
        self._source, self._problems = source, problems
        self._line, self._column = line, column
        self._anchors: dict[str, Node | None] = {}  # None while the node is being built
        self._depth = 0
        self._resolve: Any = _RESOLVER.resolve

    def document(self, events: Iterator[Any]) -> Node | None:
        """The one document of the text."""
        root: Node | None = None
        for event in events:
            if isinstance(event, yaml.DocumentStartEvent):
                if root is not None:
                    self._give_up(event, "a second document begins", "a spec is one document; remove the `---`")
                root = self._node(next(events), events)
        return root

    def _node(self, event: Any, events: Iterator[Any]) -> Node:
        if isinstance(event, yaml.AliasEvent):
            return self._alias(event)
        if event.anchor is not None:
            self._anchors[event.anchor] = None
        if event.tag not in _PLAIN_TAGS:
            tag = event.tag.replace(_TAG, "!!")
            self._problem(event, f"the tag {tag} has no meaning in a spec", "write the value without a tag")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self._give_up(event, f"nested deeper than {MAX_DEPTH} levels", "")
        node = self._built(event, events)
        self._depth -= 1
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _built(self, event: Any, events: Iterator[Any]) -> Node:
        if isinstance(event, yaml.ScalarEvent):
            return self._scalar(event)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(event, events)
        return self._mapping(event, events)

    def _scalar(self, event: Any) -> Scalar:
        kind: Kind = "str"
        plain = event.tag is None and event.style in {None, ""}
        if plain:
            kind = _KINDS.get(self._resolve(yaml.ScalarNode, event.value, (True, False)), "str")
        return Scalar(event.value, kind, plain, self._place(event))

    def _sequence(self, event: Any, events: Iterator[Any]) -> Sequence:
        sequence = Sequence(self._place(event), [])
        while not isinstance(item := next(events), yaml.SequenceEndEvent):
            node = self._node(item, events)
            sequence.items.append(node)
            sequence.parts = self._counted(event, sequence.parts + parts_of(node))
        return sequence

    def _mapping(self, event: Any, events: Iterator[Any]) -> Mapping:
        mapping = Mapping(self._place(event), {})
        merged: list[tuple[Scalar, Node]] = []
        while not isinstance(item := next(events), yaml.MappingEndEvent):
            key = self._node(item, events)
            value = self._node(next(events), events)
            mapping.parts = self._counted(event, mapping.parts + parts_of(value) + 1)
            if not isinstance(key, Scalar):
                self._problems.append(Problem(key.place, "a key must be text, not a list or mapping"))
            elif key.kind == "merge":
                merged.append((key, value))
            else:
                self._add(mapping, key, value)
        for key, value in merged:
            self._merge(mapping, key, value)
        return mapping

    def _add(self, mapping: Mapping, key: Scalar, value: Node) -> None:
        if key.text in mapping.entries:
            first = mapping.entries[key.text].key.place
            hint = f"it is already on line {first.line + 1}; remove one of them"
            self._problems.append(Problem(key.place, f"the key `{key.text[:80]}` is written twice", hint))
        else:
            mapping.entries[key.text] = Entry(key, value)

    def _merge(self, mapping: Mapping, key: Scalar, value: Node) -> None:
        """YAML's `<<: *anchor`: keys that are not there yet."""
        for base in value.items if isinstance(value, Sequence) else [value]:
            if not isinstance(base, Mapping):
                self._problems.append(Problem(key.place, "`<<` merges mappings", "write `<<: *name` of a mapping"))
                return
            for name, entry in base.entries.items():
                mapping.entries.setdefault(name, entry)

    def _alias(self, event: Any) -> Node:
        if event.anchor not in self._anchors:
            self._give_up(event, f"there is no anchor `&{event.anchor}` above", "")
        node = self._anchors[event.anchor]
        if node is None:
            self._give_up(event, f"`*{event.anchor}` stands inside of `&{event.anchor}`, so it would never end", "")
        return cast("Node", node)

    def _counted(self, event: Any, parts: int) -> int:
        if parts > MAX_PARTS:
            self._give_up(event, f"more than {MAX_PARTS} values, with aliases written out", "")
        return parts

    def _place(self, event: Any) -> Place:
        """The part of the first line that the event covers; of a block, its first character."""
        start, end = event.start_mark, event.end_mark
        column = start.column + (self._column if start.line == 0 else 0)
        one_line = isinstance(event, (yaml.ScalarEvent, yaml.AliasEvent)) and end.line == start.line
        width = end.column - start.column if one_line else 1
        return Place(self._source, start.line + self._line, column, max(1, width))

    def _problem(self, event: Any, text: str, hint: str) -> None:
        self._problems.append(Problem(self._place(event), text, hint))

    def _give_up(self, event: Any, text: str, hint: str) -> None:
        self._problem(event, text, hint)
        raise _GiveUpError


def parts_of(node: Node) -> int:
    """Values in a node, with aliases written out."""
    return 1 if isinstance(node, Scalar) else node.parts
