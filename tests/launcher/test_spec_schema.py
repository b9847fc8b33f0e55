"""The committed JSON Schema and spec reference: current, and in agreement with the reader."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from torchrelay.contract.settings import key_of
from torchrelay_launch.spec import reference, schema
from torchrelay_launch.spec.decode import Decoded, decode
from torchrelay_launch.spec.places import Source
from torchrelay_launch.spec.tree import parse

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
TRAIN = {
    "task": "lm",
    "data": {"train": {"target": "a.b"}},
    "model": {"target": "a.b"},
    "optimizer": {"target": "a.b"},
    "global_batch": 8,
    "steps": 1,
}


@pytest.fixture(scope="module")
def validator() -> Any:
    made = schema.job_schema()
    jsonschema.Draft202012Validator.check_schema(made)
    return jsonschema.Draft202012Validator(made)


def test_the_committed_schema_is_current() -> None:
    current = schema.dump(schema.job_schema())
    assert schema.PATH.read_text() == current, f"the models have changed; run `make docs`, or {schema.REFRESH}"


def test_the_committed_reference_is_current() -> None:
    assert reference.PATH.read_text() == reference.reference(), f"run `make docs`, or {reference.REFRESH}"


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_the_jobs_of_the_project_fit_the_schema(validator: Any, path: Path) -> None:
    validator.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "good",
    [
        {"name": "a", "script": "a.py"},
        {"name": "a", "script": "a.py", "train": None},
        {"name": "a", "train": TRAIN},
        {"extends": "b.yaml"},
        {
            "name": "a",
            "train": {},
            "sweep": {"grid": {"train.steps": [1, None]}, "list": [{"args.0": [1]}], "at_once": 2},
        },
        {"extends": ["b.yaml", "c.yaml"], "train": {"epochs": 2, "model": {"args": {"x": 1}}}},
        {"name": "a", "module": "a.b", "resources": {"nodes": "2..8", "memory": "4GiB", "time_limit": "1h30m"}},
        {"name": "a", "module": "a.b", "checkpoint": {"every": "200 steps or 5m"}},
    ],
)
def test_good_specs_fit(validator: Any, good: object) -> None:
    validator.validate(good)


@pytest.mark.parametrize(
    "bad",
    [
        {},
        {"name": "a"},
        {"name": "A b", "script": "a.py"},
        {"name": "a", "script": "a.py", "module": "a.b"},
        {"name": "a", "script": "a.py", "unknown": 1},
        {"name": "a", "script": "a.py", "restarts": {"on_failure": -1}},
        {"name": "a", "script": "a.py", "resources": {"time_limit": 60}},
        {"name": "a", "script": "a.py", "env": {"A": 1}},
        {"name": "a", "train": {**TRAIN, "epochs": 1}},
        {"name": "a", "train": {**TRAIN, "precision": "fp8"}},
        {"name": "a", "train": {**TRAIN, "model": {"args": {}}}},
        {"name": "a", "train": {key: value for key, value in TRAIN.items() if key != "data"}},
        {"name": "a", "train": {**TRAIN, "data": {"train": {"target": "a.b"}, "transform": [{}]}}},
        {"extends": "b.yaml", "unknown": 1},
        {"extends": 3},
        {"name": "a", "script": "a.py", "sweep": {"grid": {"env.A": 3}}},
        {"name": "a", "script": "a.py", "sweep": {"lst": []}},
        {"name": "a", "script": "a.py", "sweep": {"list": [3]}},
    ],
)
def test_bad_specs_do_not_fit(validator: Any, bad: object) -> None:
    assert not validator.is_valid(bad)


def test_every_key_has_words_in_the_schema_and_the_reference() -> None:
    page = reference.reference()
    for model, path in reference._models().items():
        for one in dataclasses.fields(model):
            assert len(one.metadata["doc"]) > 10, f"{path}.{one.name}"
            assert f"| `{key_of(one)}` |" in page


def test_examples_and_defaults_are_good_values(validator: Any) -> None:
    """What the schema and the reference show for a key is read by the reader, and fits the key's own schema."""
    properties = {"": schema.job_schema()} | schema.job_schema()["$defs"]
    for model in reference._models():
        own = properties.get(model.__name__, properties[""])["properties"]
        for one in dataclasses.fields(model):
            shown = own[key_of(one)]
            for value in shown.get("examples", []) + ([shown["default"]] if "default" in shown else []):
                validator.evolve(schema=shown).validate(value)
            if one.metadata["example"]:
                found = Decoded([])
                node = parse(Source("example", one.metadata["example"]), found.problems)
                assert node is not None
                if one.type is not str:  # an example of text may need quotes in a file
                    decode(one.type, node, "example", found)
                assert found.problems == []


def test_links_within_the_reference_lead_somewhere() -> None:
    page = reference.reference()
    headings = re.findall("^## (.*)$", page, re.MULTILINE)
    titles = {re.sub(r"[^a-z0-9_ -]", "", title.lower()).replace(" ", "-") for title in headings}
    assert set(re.findall(r"\(#([^)]*)\)", page)) <= titles


def test_the_schema_is_plain_json() -> None:
    assert json.loads(schema.PATH.read_text()) == schema.job_schema()
