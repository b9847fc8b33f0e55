"""However broken, a spec gives a job or a report, and never anything else."""

import random
import tempfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrelay.contract.settings import to_json
from torchrelay_launch.spec.decode import keys_of
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.reader import SpecErrors, load_resolved, read_spec

FILES = [path.read_bytes() for path in sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))]
JOBS = [text for text in FILES if b"extends:" not in text]  # those that stand alone
PIECES = (
    b"&a |*a|<<: *a|!!python/object:os.system |- |: |? |> |[|{|}|]|'|\"|---\n|...\n|%YAML 1.1\n|\t|\0|\xff|\xc2\x85|"
    b"\xe2\x80\xa8|\xef\xbb\xbf|\xf0\x9f\x98\x80|010|08|0o7|0x_|0b|00|-0|1:2:3|1:2.5|.inf|-.nan|~|null|=|no|1e400|"
    b"1.0e+400|2001-01-01|99999999999999999999999999|extends: job.yaml\n|\n  |\\|@|%|#|,"
).split(b"|")

numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**30, -1, 0, 1, 2, 64]))
texts = st.one_of(
    st.text(max_size=12), st.sampled_from(["2..8", "4GiB", "12h", "200 steps", "a.b", "3e-4", "no", "gloo"])
)
names = st.one_of(
    st.sampled_from([*keys_of(JobSpec), "target", "data", "model", "nodes", "epochs", "steps", "extends"]), texts
)
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts, st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(names, inner, max_size=5)),
    max_leaves=25,
)
overrides = st.lists(
    st.one_of(
        st.text(max_size=20),
        st.builds(lambda key, value: f"{key}={value}", st.lists(names, max_size=3).map(".".join), texts),
        st.sampled_from(["train.data.transform.0.target=x", "train.model.args.sizes.9=1", "train.epochs=", "args.0=x"]),
    ),
    max_size=3,
)


def outcome(data: bytes, sets: list[str]) -> str:
    """What reading gives: "job" or "report". A job comes back from its own record."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "job.yaml"
        path.write_bytes(data)
        try:
            job = read_spec(str(path), sets).job
        except SpecErrors as errors:
            return _checked(errors)
    assert load_resolved(to_json(job)) == job
    return "job"


def _checked(errors: SpecErrors) -> str:
    assert errors.problems
    assert str(errors).endswith(("1 error", "errors"))
    assert errors.report(colour=True)
    return "report"


@given(st.binary(max_size=200), overrides)
def test_any_bytes(data: bytes, sets: list[str]) -> None:
    outcome(data, sets)


@given(st.dictionaries(names, values, max_size=8), overrides)
def test_any_structure(structure: dict[str, object], sets: list[str]) -> None:
    outcome(yaml.safe_dump(structure, allow_unicode=True).encode("utf-8", "replace"), sets)


@settings(max_examples=300)
@given(st.sampled_from(JOBS), st.integers(0, 2**32), st.integers(1, 6), overrides)
def test_a_real_spec_with_pieces_put_in_and_taken_out(job: bytes, seed: int, changes: int, sets: list[str]) -> None:
    dice = random.Random(seed)
    data = bytearray(job)
    for _ in range(changes):
        at = dice.randrange(len(data) + 1)
        data[at : at + dice.choice([0, 0, 1, 5, 20])] = dice.choice([b"", *PIECES])
    outcome(bytes(data), sets)


@pytest.mark.parametrize("job", JOBS)
def test_real_specs_are_jobs(job: bytes) -> None:
    assert outcome(job, []) == "job"
    assert outcome(job, ["name=No Name"]) == "report"
