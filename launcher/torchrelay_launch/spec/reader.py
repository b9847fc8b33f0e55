"""Reads a job spec: `read_spec` returns the checked job, or raises with everything that is wrong with it at once."""

from collections.abc import Sequence
from typing import NamedTuple

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.settings import Json, from_json
from torchrelay_launch.spec.decode import Decoded, decode
from torchrelay_launch.spec.layers import Layers, override, read_layers
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.places import Place, Problem, SpecErrors
from torchrelay_launch.spec.rules import check, literal_secrets
from torchrelay_launch.spec.sweep import Point, read_points
from torchrelay_launch.spec.tree import Mapping

__all__ = ["LoadedSpec", "Problem", "SpecErrors", "load_resolved", "read_spec"]


class LoadedSpec(NamedTuple):
    """A checked job, and where its values are written."""

    job: JobSpec
    sources: dict[str, str]  # "train.model.target" -> "jobs/x.yaml:12:13", or "--set train.model.target"
    source_text: str  # of the file itself, without what it extends
    files: tuple[str, ...] = ()  # the file, then what it extends, in the order of reading
    points: tuple[Point, ...] = ()  # of a sweep; `job` is that of the first, for what all have in common
    at_once: int | None = None  # of a sweep


def read_spec(path: str, overrides: Sequence[str] = ()) -> LoadedSpec:
    """The job that a file describes, with `a.b=c` overrides on top. Raises: SpecErrors, holding every mistake."""
    layers = Layers()
    tree = read_layers(path, layers)
    if not isinstance(tree, Mapping):
        raise SpecErrors(layers.problems)
    for setting in overrides:
        tree = override(tree, setting, layers.problems)
    texts = (layers.sources[0].text, tuple(source.name for source in layers.sources))
    root = Place(layers.sources[0], 0, 0)
    swept = read_points(tree, root, layers.problems)
    if swept is None:
        return LoadedSpec(*_read_one(tree, root, layers.problems), *texts)
    if layers.problems:
        raise SpecErrors(layers.problems, swept.secrets)
    first = swept.points[0]
    return LoadedSpec(first.job, first.sources, *texts, tuple(swept.points), swept.at_once)


def _read_one(tree: Mapping, root: Place, problems: list[Problem]) -> tuple[JobSpec, dict[str, str]]:
    """The job of a spec without a sweep, and where its values are written. Raises: SpecErrors."""
    found = Decoded(problems)
    found.keys[""] = root
    job = decode(JobSpec, tree, "", found)
    check(found)
    if found.problems:
        raise SpecErrors(found.problems, literal_secrets(found))
    return job, {path: str(node.place) for path, node in found.nodes.items() if path}


def load_resolved(values: Json) -> JobSpec:
    """The job that `to_json` made `values` from, as an attempt's record holds it. Raises: ConfigError."""
    try:
        return from_json(JobSpec, values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"the recorded spec does not fit this version of torchrelay: {error!r}") from error
