"""From a spec with `sweep:` to its points: each is the spec with some values set, read and checked as a whole."""

import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from torchrelay.contract.settings import Json, to_json
from torchrelay_launch.spec.decode import Decoded, decode
from torchrelay_launch.spec.layers import EXTENDS, keys_in, put
from torchrelay_launch.spec.models import JobSpec, Sweep
from torchrelay_launch.spec.places import Place, Problem
from torchrelay_launch.spec.point_names import label
from torchrelay_launch.spec.rules import check, literal_secrets
from torchrelay_launch.spec.scalars import Scalar
from torchrelay_launch.spec.tree import Mapping, Node, Sequence

KEY = "sweep"
MOST_POINTS = 1000
ENOUGH_PROBLEMS = 30

# Fields that are the same in all points, and why.
FIXED = {
    "name": "all runs of a sweep have its name, and are told apart by the point in their ids",
    "storage": "all runs of a sweep lie in one storage, where `torchrelay ls --sweep` finds them",
    "storage_options": "all runs of a sweep lie in one storage, where `torchrelay ls --sweep` finds them",
    "backend": "all runs of a sweep go to one backend; submit it once for each, with --on",
    KEY: "a sweep can't sweep itself; write more fields into its `grid`",
    EXTENDS: "files are read before there are points; name the fields that differ",
}


class Point(NamedTuple):
    """One run of a sweep, checked. `values`: what the sweep sets, by dotted field."""

    number: int  # from 1
    values: dict[str, Json]
    job: JobSpec
    sources: dict[str, str]


def fields_of(points: Iterable[Point]) -> list[str]:
    """The dotted fields that any of the points sets, in the order of the spec."""
    return list(dict.fromkeys(field for point in points for field in point.values))


class Points(NamedTuple):
    """All points of a sweep, and what is written of it beside them."""

    points: list[Point]
    at_once: int | None
    secrets: frozenset[str]  # to be covered in error reports


class _Setting(NamedTuple):
    """A field that a point sets, with the place of each of its keys, and the value."""

    field: str
    keys: list[Scalar]
    value: Node


_Choice = tuple[_Setting, ...]  # what is set together: one value of a field of the grid, or one entry of the list


def read_points(tree: Mapping, root: Place, problems: list[Problem]) -> Points | None:
    """The points of a spec's tree; None if it has no sweep. What is wrong with any of them is added to `problems`."""
    entry = tree.entries.get(KEY)
    base = Mapping(tree.place, {key: one for key, one in tree.entries.items() if key != KEY})
    if entry is None or (isinstance(entry.value, Scalar) and entry.value.null and not entry.value.empty):
        return None
    out = Decoded(problems)
    out.keys[KEY] = entry.key.place
    decode(Sweep, entry.value, KEY, out)
    axes = [*_listed(out), *_grid(out)]
    if not axes and not problems:
        out.problem(entry.key.place, f"{KEY}: there are no points", "add `grid:` or `list:`")
    _check_fields(axes, base, out)
    count = math.prod(len(axis) for axis in axes)
    if count > MOST_POINTS:
        out.problem(entry.key.place, f"{KEY}: {count} points, and {MOST_POINTS} is the most", "take some values out")
        axes = [axis[:1] for axis in axes]
    return _read_all(base, root, axes, out)


def _listed(out: Decoded) -> Iterator[list[_Choice]]:
    """The axis of `list:`, if there is one."""
    node = out.nodes.get("sweep.list")
    if not isinstance(node, Sequence):
        return
    choices = []
    for index in range(len(node.items)):
        path = f"sweep.list.{index}"
        item = out.values.get(path)
        found = [_setting(field, out.keys[f"{path}.{field}"], value, out) for field, value in (item or {}).items()]
        choices.append(tuple(one for one in found if one is not None))
        if item == {}:
            out.problem(out.nodes[path].place, f"{path}: this point sets nothing", "name a field and its value")
    if not choices:
        out.problem(out.place("sweep.list"), "sweep.list: expected at least one point", "add one, or remove `list`")
    if any(choices):
        yield choices


def _grid(out: Decoded) -> Iterator[list[_Choice]]:
    """An axis for each field of `grid:`."""
    node = out.nodes.get("sweep.grid")
    if not isinstance(node, Mapping):
        return
    if not node.entries:
        out.problem(out.place("sweep.grid"), "sweep.grid: expected at least one field", "add one, or remove `grid`")
    for field in node.entries:
        path = f"sweep.grid.{field}"
        values = out.values.get(path)
        if values == []:
            out.problem(out.nodes[path].place, f"{path}: expected at least one value", "add one, or remove the field")
        found = [_setting(field, out.keys[path], value, out) for value in values or []]
        choices: list[_Choice] = [(one,) for one in found if one is not None]
        if choices:
            yield choices


def _setting(field: str, place: Place, value: Node, out: Decoded) -> _Setting | None:
    """What a field's value sets, or None if the field can't be set."""
    quote = 1 if place.width > len(field) else 0
    keys = keys_in(field, place._replace(column=place.column + quote))
    problem = None
    if any(not key.text for key in keys):
        problem = Problem(place, f"{KEY}: a key is missing in `{field}`", "write the path of a field, as in train.seed")
    elif keys[0].text in FIXED:
        problem = Problem(keys[0].place, f"{KEY}: `{keys[0].text}` can't be swept", FIXED[keys[0].text])
    if problem is None:
        return _Setting(field, keys, value)
    if problem not in out.problems:
        out.problems.append(problem)
    return None


def _check_fields(axes: list[list[_Choice]], base: Mapping, out: Decoded) -> None:
    """No field in two axes, and none that `--set` gives: one of them would be without effect."""
    seen: dict[str, int] = {}
    for index, axis in enumerate(axes):
        for one in {one.field: one for choice in axis for one in choice}.values():
            if seen.setdefault(one.field, index) != index:
                out.problem(
                    one.keys[0].place._replace(width=len(one.field)),
                    f"{KEY}: `{one.field}` is in `list` too",
                    "keep it in one of them",
                )
            below = _at(base, one.keys)
            if below is not None and not below.place.source.is_file:
                text = f"{one.field}: the sweep sets this field, so here it has no effect"
                hint = "--set sweep=null starts one run without the sweep"
                out.problem(below.place._replace(column=0, width=len(one.field)), text, hint)


def _written_secrets(out: Decoded) -> frozenset[str]:
    """The secrets in all that the sweep sets, also where that is refused, so that no point has it."""
    listed = out.nodes.get("sweep.list")
    written = [out.nodes.get("sweep.grid"), *(listed.items if isinstance(listed, Sequence) else [])]
    secrets: frozenset[str] = frozenset()
    for fields in written:
        for field, entry in fields.entries.items() if isinstance(fields, Mapping) else ():
            for value in entry.value.items if isinstance(entry.value, Sequence) else [entry.value]:
                alone = Decoded([])
                top = put(None, keys_in(field, value.place), value, alone.problems)
                alone.nodes = {name: one.value for name, one in top.entries.items()}
                secrets |= literal_secrets(alone)
    return secrets


def _at(node: Node | None, keys: list[Scalar]) -> Node | None:
    for key in keys:
        node = node.get(key.text) if isinstance(node, Mapping) else None
    return node


def _read_all(base: Mapping, root: Place, axes: list[list[_Choice]], out: Decoded) -> Points:
    """Every point, read. What all points have in common is reported once, as if there were no sweep."""
    found: dict[Problem, list[_Choice]] = {}
    points: list[Point] = []
    choices = [tuple(itertools.chain(*chosen)) for chosen in itertools.product(*axes)]
    secrets = _written_secrets(out)
    read = 0
    for number, settings in enumerate(choices, 1):
        read += 1
        point, read_as = _read(base, root, number, settings)
        secrets |= literal_secrets(read_as)
        for problem in dict.fromkeys(read_as.problems):
            found.setdefault(problem, []).append(settings)
        if point is not None:
            points.append(point)
        if len(found) > ENOUGH_PROBLEMS:
            break
    numbers = {id(settings): number for number, settings in enumerate(choices, 1)}
    for problem, where in found.items():
        common = len(where) == read
        out.problems.append(problem if common else _naming(problem, [numbers[id(one)] for one in where], where[0]))
    _refuse_twins(points, choices, out)
    at_once = out.values.get("sweep.at_once")
    return Points(points, at_once, secrets)


def _read(base: Mapping, root: Place, number: int, settings: _Choice) -> tuple[Point | None, Decoded]:
    found = Decoded([])
    found.keys[""] = root
    tree = base
    for one in settings:
        tree = put(tree, one.keys, one.value, found.problems)
    job = decode(JobSpec, tree, "", found)
    check(found)
    if found.problems:
        return None, found
    sources = {path: str(node.place) for path, node in found.nodes.items() if path}
    values = {one.field: to_json(found.values.get(one.field)) for one in settings}
    return Point(number, values, job, sources), found


def _naming(problem: Problem, numbers: list[int], first: _Choice) -> Problem:
    """The problem with the points that have it."""
    shown = {one.field: one.value.text if isinstance(one.value, Scalar) else "..." for one in first}
    more = f" and {len(numbers) - 1} more" if len(numbers) > 1 else ""
    return problem._replace(text=f"{problem.text} (in point {numbers[0]}: {label(shown)}{more})")


def _refuse_twins(points: list[Point], choices: list[_Choice], out: Decoded) -> None:
    """Two points that come to the same spec are a mistake: the same run twice."""
    import json

    first: dict[str, int] = {}
    noted = set()
    for point in points:
        twin = first.setdefault(json.dumps(to_json(point.job), sort_keys=True), point.number)
        if twin == point.number:
            continue
        mine, theirs = choices[point.number - 1], choices[twin - 1]
        differs = next((a.value.place for a, b in zip(mine, theirs, strict=False) if a.value is not b.value), None)
        place = differs or mine[-1].value.place
        if place not in noted:
            noted.add(place)
            text = f"{KEY}: point {point.number} is the same as point {twin}: {label(point.values)}"
            out.problem(place, text, "take one of them out")
