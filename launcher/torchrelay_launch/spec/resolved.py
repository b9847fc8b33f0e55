"""The recorded spec of an attempt, with changes on top: what `resume --set` goes on with."""

from collections.abc import Iterator, Sequence

from torchrelay.contract.records import SpecRecord
from torchrelay.contract.settings import Json
from torchrelay_launch.spec.decode import Decoded, decode
from torchrelay_launch.spec.layers import override
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.places import Place, Problem, Source, SpecErrors
from torchrelay_launch.spec.reader import LoadedSpec, load_resolved
from torchrelay_launch.spec.rules import check, literal_secrets
from torchrelay_launch.spec.tree import Mapping, parse

_NAME = "the run's recorded spec"


def change_recorded(record: SpecRecord, overrides: Sequence[str]) -> LoadedSpec:
    """A recorded spec with `a.b=c` overrides on top, checked like a new one. Raises: SpecErrors, ConfigError."""
    if not overrides:
        return LoadedSpec(load_resolved(record.spec), record.sources, "")
    import yaml

    problems: list[Problem] = []
    source = Source(_NAME, yaml.safe_dump(record.spec, sort_keys=False))
    tree = parse(source, problems)
    if not isinstance(tree, Mapping):
        raise SpecErrors(problems or [Problem(_NAME, "it is not a mapping")])
    for setting in overrides:
        tree = override(tree, setting, problems)
    found = Decoded(problems)
    found.keys[""] = Place(source, 0, 0)
    job = decode(JobSpec, tree, "", found)
    check(found)
    if found.has("sweep"):
        found.problem(
            found.place("sweep"), "sweep: a run that is there can't become a sweep", "change its spec instead"
        )
    if found.problems:
        raise SpecErrors(found.problems, literal_secrets(found))
    changed = {path: str(node.place) for path, node in found.nodes.items() if path and not node.place.source.is_file}
    return LoadedSpec(job, record.sources | changed, "")


def differences(old: Json, new: Json, path: str = "") -> Iterator[tuple[str, Json, Json]]:
    """The values that differ between two specs as JSON: dotted path, old and new; a missing one is None."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif old != new:
        yield path, old, new
