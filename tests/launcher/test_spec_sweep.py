"""From `sweep:` to points, and what is said of mistakes in it."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from torchrelay_launch.spec.point_names import label, short_names
from torchrelay_launch.spec.reader import LoadedSpec, SpecErrors, read_spec

SECRET = "hunter2secret"
BASE = """\
name: job
train:
  task: lm
  data: {train: {target: a.b}}
  model: {target: a.b, args: {sizes: [1, 2]}}
  optimizer: {target: a.b, args: {lr: 0.5, momentum: 0.9}}
  global_batch: 8
  steps: 10
"""
WRONG = """\
name: digits
train:
  task: classification
  data: {train: {target: torch.utils.data.TensorDataset}}
  model: {target: torch.nn.Linear, args: {in_features: 1, out_features: 1}}
  optimizer: {target: torch.optim.SGD, args: {lr: 1.0e-5}}
  global_batch: 8
  stepps: 100
env: {API_TOKEN: not-to-be-shown}
sweep:
  grid:
    train.optimizer.args.lr: [0.1, 3e-4]
    train.optimiser.args.momentum: [0.9]
    "train.precision": [bf16, fp8]
    train.data.train.3: [a.b]
    train.seed: []
    train.workers: 2
    storage: [a, b]
    "train..x": [1]
    train.global_batch: [8]
  lst: []
  list:
    - {train.global_batch: 2, resources.procs_per_node: 4}
    - {train.seed: 1.5}
    - {}
  at_once: 0
"""


def read(folder: Path, sweep: str, *overrides: str, base: str = BASE) -> LoadedSpec:
    path = folder / "job.yaml"
    path.write_text(f"{base}sweep: {sweep}\n")
    return read_spec(str(path), overrides)


def refused(folder: Path, sweep: str, *overrides: str, base: str = BASE) -> list[str]:
    with pytest.raises(SpecErrors) as caught:
        read(folder, sweep, *overrides, base=base)
    return [f"{one.place}: {one.text}; {one.hint}".removeprefix(f"{folder}/") for one in caught.value.problems]


def test_a_grid_gives_every_combination_the_last_field_changing_first(tmp_path: Path) -> None:
    loaded = read(tmp_path, "{grid: {train.optimizer.args.lr: [0.1, 0.2], train.seed: [1, 2, 3]}, at_once: 2}")
    found = [(point.job.train.optimizer.args["lr"], point.job.train.seed) for point in loaded.points]  # type: ignore[union-attr]
    assert found == [(lr, seed) for lr in (0.1, 0.2) for seed in (1, 2, 3)]
    assert [point.number for point in loaded.points] == [1, 2, 3, 4, 5, 6]
    assert loaded.points[3].values == {"train.optimizer.args.lr": 0.2, "train.seed": 1}
    assert (loaded.at_once, loaded.job) == (2, loaded.points[0].job)
    assert all(point.job.sweep is None for point in loaded.points)
    assert loaded.points[0].sources["train.seed"].endswith("job.yaml:9:66")


def test_a_list_gives_its_entries_in_all_combinations_of_the_grid(tmp_path: Path) -> None:
    loaded = read(tmp_path, "{list: [{train.seed: 1}, {train.steps: 3}], grid: {train.precision: [fp32, bf16]}}")
    assert [point.values for point in loaded.points] == [
        {"train.seed": 1, "train.precision": "fp32"},
        {"train.seed": 1, "train.precision": "bf16"},
        {"train.steps": 3, "train.precision": "fp32"},
        {"train.steps": 3, "train.precision": "bf16"},
    ]


def test_any_field_of_any_kind_can_be_swept(tmp_path: Path) -> None:
    sweep = """
  list:
    - {train.model.args.sizes.1: 7, resources.nodes: 2..4, restarts.grace: 90s}
    - {train.optimizer: {target: c.d}, train.steps: null, train.epochs: 2, env.A: "3"}
"""
    first, second = read(tmp_path, sweep).points
    assert first.job.train is not None
    assert first.job.train.model.args == {"sizes": [1, 7]}
    assert first.values == {"train.model.args.sizes.1": 7, "resources.nodes": "2..4", "restarts.grace": "90s"}
    assert second.job.train is not None
    assert (second.job.train.optimizer.target, second.job.train.optimizer.args) == ("c.d", {})
    assert (second.job.train.steps, second.job.train.epochs, second.job.env) == (None, 2, {"A": "3"})


def test_points_may_complete_what_the_spec_leaves_out(tmp_path: Path) -> None:
    base = BASE.replace("  steps: 10\n", "")
    points = read(tmp_path, "{list: [{train.steps: 5}, {train.epochs: 1}]}", base=base).points
    assert [(one.job.train.steps, one.job.train.epochs) for one in points if one.job.train] == [(5, None), (None, 1)]


def test_set_and_extends_reach_into_a_sweep_or_take_it_out(tmp_path: Path) -> None:
    assert len(read(tmp_path, "{grid: {train.seed: [1, 2]}}", "sweep.grid={train.seed: [1, 2, 3]}").points) == 3
    assert read(tmp_path, "{grid: {train.seed: [1, 2]}}", "sweep=null").points == ()
    (tmp_path / "child.yaml").write_text("extends: job.yaml\nsweep: {grid: {train.seed: [7], train.steps: [1, 2]}}\n")
    found = read_spec(str(tmp_path / "child.yaml")).points
    assert [one.values for one in found] == [{"train.seed": 7, "train.steps": step} for step in (1, 2)]


def test_every_mistake_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden_file: Callable[[str, str], None]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(WRONG)
    with pytest.raises(SpecErrors) as caught:
        read_spec("job.yaml", ["train.optimizer.args.lr=3"])
    assert "not-to-be-shown" not in str(caught.value)
    golden_file("spec-sweep-errors.txt", f"{caught.value}\n")


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        ("", "sweep: there is nothing after `sweep:`"),
        ("{}", "sweep: there are no points; add `grid:` or `list:`"),
        ("{at_once: 3}", "sweep: there are no points"),
        ("{grid: {}}", "sweep.grid: expected at least one field"),
        ("{list: []}", "sweep.list: expected at least one point"),
        ("{grid: {train.seed: 3}}", "sweep.grid.train.seed: expected a list, not `3`; write [3]"),
        ("{grid: {train.seed: [1, 2, 1]}}", "job.yaml:9:35: sweep: point 3 is the same as point 1: seed=1"),
        ("{grid: {train.optimizer.args.lr: [0.1, 0.10]}}", "point 2 is the same as point 1"),
        ("{list: [{env.A: x, env.B: y}, {env.B: y, env.A: x}]}", "sweep: point 2 is the same as point 1: B=y A=x"),
        ("{list: [{train.steps: 10}, {train.seed: 0}]}", "sweep: point 2 is the same as point 1: seed=0"),
        ("{list: [{train.seed: 1}], grid: {train.seed: [2]}}", "sweep: `train.seed` is in `list` too"),
        ("{grid: {name: [a, b]}}", "sweep: `name` can't be swept; all runs of a sweep have its name"),
        ("{grid: {storage: [a, b]}}", "sweep: `storage` can't be swept; all runs of a sweep lie in one storage"),
        ("{grid: {storage_options.retry_s: [1, 2]}}", "sweep: `storage_options` can't be swept"),
        ("{grid: {backend: [slurm]}}", "sweep: `backend` can't be swept"),
        ("{list: [{sweep.grid: {}}]}", "sweep: `sweep` can't be swept"),
        ("{grid: {extends: [a.yaml]}}", "sweep: `extends` can't be swept"),
    ],
)
def test_what_is_refused(tmp_path: Path, sweep: str, says: str) -> None:
    (problem,) = refused(tmp_path, sweep)
    assert says in problem


def test_too_many_points_are_refused_before_they_are_made(tmp_path: Path) -> None:
    values = list(range(100))
    grid = ", ".join(f"train.model.args.a{n}: {values}" for n in range(20))
    (problem,) = refused(tmp_path, f"{{grid: {{{grid}}}}}")
    assert "sweep: 10000000000000000000000000000000000000000 points, and 1000 is the most" in problem


def test_a_mistake_of_the_spec_itself_is_told_once_and_names_no_point(tmp_path: Path) -> None:
    (problem,) = refused(tmp_path, "{grid: {train.seed: [1, 2, 3]}}", base=BASE.replace("steps", "stepps"))
    assert problem == "job.yaml:8:3: train: unknown key `stepps`; did you mean `steps`?"


def test_a_mistake_of_some_points_names_them(tmp_path: Path) -> None:
    sweep = "{grid: {train.global_batch: [8, 2], resources.procs_per_node: [1, 4], train.seed: [1, 2]}}"
    (problem,) = refused(tmp_path, sweep)
    assert problem.startswith("job.yaml:9:40: train.global_batch: 2 samples can't be shared by 4 ranks (in point 7:")
    assert "(in point 7: global_batch=2 procs_per_node=4 seed=1 and 1 more)" in problem


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        (["train.optimizer.args.lr"], ["lr"]),
        (["train.model.args.width", "train.head.args.width"], ["model.args.width", "head.args.width"]),
        (["train.model.args.sizes.1", "train.data.transform.0.target"], ["sizes.1", "target"]),
        (["lr", "train.lr"], ["lr", "train.lr"]),
    ],
)
def test_names_are_as_short_as_they_can_be(fields: list[str], names: list[str]) -> None:
    assert list(short_names(fields).values()) == names


def test_names_tell_fields_apart() -> None:
    paths = [".".join(words) for length in (1, 2, 3) for words in itertools.product("ab1", repeat=length)]
    for fields in [*itertools.combinations(paths, 2), tuple(paths)]:
        names = short_names(fields)
        assert len(set(names.values())) == len(fields), names
        assert all(field == name or field.endswith(f".{name}") for field, name in names.items())


def test_a_point_in_one_line() -> None:
    values = {"b.lr": 0.001, "b.sizes": [1, 2], "b.kind": "x y", "b.on": True, "b.none": None}
    assert label(values, [*values, "c.other"]) == "lr=0.001 sizes=[1,2] kind=x y on=true none=null"


@pytest.mark.parametrize(
    "swept",
    [
        f"grid: {{storage_options: [{{secret: {SECRET}}}]}}",
        f"grid: {{storage_options: {{secret: {SECRET}}}}}",
        f"grid: {{storage_options.client_kwargs.aws_secret_access_key: [{SECRET}]}}",
        f"grid: {{storage: ['s3://user:{SECRET}@host/runs']}}",
        f"grid: {{env.API_TOKEN: {SECRET}}}",
        f"grid: {{env: [{{API_TOKEN: {SECRET}}}]}}",
        f"list: [{{storage_options: {{client_kwargs: {{password: {SECRET}}}}}}}]",
    ],
)
def test_secrets_are_covered_where_they_can_not_be_swept(swept: str, tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text(f"{BASE}sweep: {{{swept}}}\n")
    with pytest.raises(SpecErrors) as caught:
        read_spec(str(job))
    assert SECRET not in str(caught.value)
    assert "**********" in str(caught.value)
