"""`extends` and `--set`."""

from pathlib import Path

import pytest

from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.spec.reader import LoadedSpec, SpecErrors, read_spec

BASE = """
name: base
train:
  task: classification
  data: {train: {target: a.Train, args: {root: data}}, transform: [{target: a.One}, {target: a.Two}]}
  model: {target: a.Net, args: {sizes: [1, 2], dropout: 0.2}}
  optimizer: {target: torch.optim.Adam, args: {lr: 1.0e-3}}
  global_batch: 64
  epochs: 10
env: {A: "1"}
"""


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / "job.yaml"


def child(folder: Path, text: str, *overrides: str) -> LoadedSpec:
    return read_spec(str(write(folder, base=BASE, job=f"extends: base.yaml\n{text}")), overrides)


def problems(folder: Path, *overrides: str, **files: str) -> list[tuple[str, str]]:
    with pytest.raises(SpecErrors) as caught:
        read_spec(str(write(folder, **files)), overrides)
    return [(str(one.place), one.text) for one in caught.value.problems]


def test_mappings_merge_and_lists_and_scalars_are_replaced(tmp_path: Path) -> None:
    text = "name: child\ntrain: {model: {args: {sizes: [3]}}, data: {transform: [{target: a.Three}]}}\nenv: {B: x}\n"
    loaded = child(tmp_path, text)
    assert loaded.job.name == "child"
    assert loaded.job.train is not None
    assert loaded.job.train.model.args == {"sizes": [3], "dropout": 0.2}
    assert [one.target for one in loaded.job.train.data.transform or []] == ["a.Three"]
    assert loaded.job.env == {"A": "1", "B": "x"}
    assert loaded.sources["train.model.args.sizes"] == f"{tmp_path}/job.yaml:3:31"
    assert loaded.sources["train.model.args.dropout"] == f"{tmp_path}/base.yaml:6:57"
    assert loaded.files == (f"{tmp_path}/job.yaml", f"{tmp_path}/base.yaml")


def test_another_target_does_not_inherit_arguments(tmp_path: Path) -> None:
    other = child(tmp_path, "train: {model: {target: a.Other}}\n").job.train
    same = child(tmp_path, "train: {model: {target: a.Net}}\n").job.train
    assert other is not None
    assert same is not None
    assert other.model.args == {}
    assert same.model.args == {"sizes": [1, 2], "dropout": 0.2}


def test_null_takes_a_value_out(tmp_path: Path) -> None:
    train = child(tmp_path, "train: {epochs: null, steps: 5}\n").job.train
    assert train is not None
    assert (train.epochs, train.steps) == (None, 5)


def test_both_of_two_that_exclude_each_other_names_the_other_file(tmp_path: Path) -> None:
    write(tmp_path, base=BASE)
    with pytest.raises(SpecErrors) as caught:
        read_spec(str(write(tmp_path, job="extends: base.yaml\ntrain: {steps: 5}\n")))
    [problem] = caught.value.problems
    assert str(problem.place) == f"{tmp_path}/job.yaml:2:9"
    assert f"`epochs` is at {tmp_path}/base.yaml:9:3" in problem.hint


def test_several_bases_and_paths_relative_to_the_extending_file(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    write(tmp_path / "lib", base=BASE, mid="extends: base.yaml\nname: mid\nstorage: here\n")
    write(tmp_path, last="name: last\n")
    loaded = read_spec(str(write(tmp_path, job="extends: [lib/mid.yaml, last.yaml]\n")))
    assert (loaded.job.name, loaded.job.storage) == ("last", "here")


def test_errors_in_a_base_are_shown_there_together_with_the_files_own(tmp_path: Path) -> None:
    found = problems(tmp_path, base=BASE.replace("64", "none"), job="extends: base.yaml\nbackend: x\n")
    assert [place for place, _ in found] == [f"{tmp_path}/base.yaml:8:17", f"{tmp_path}/job.yaml:2:10"]


def test_circles_missing_files_and_odd_values(tmp_path: Path) -> None:
    here = str(tmp_path)
    assert problems(tmp_path, job="extends: job.yaml\nname: a\nscript: b\n") == [
        (f"{here}/job.yaml:1:10", "a spec can't extend itself, also not through others")
    ]
    assert problems(tmp_path, other="extends: job.yaml\n", job="extends: other.yaml\nname: a\nscript: b\n") == [
        (f"{here}/other.yaml:1:10", "a spec can't extend itself, also not through others")
    ]
    assert problems(tmp_path, job="extends: bsae.yaml\nname: a\nscript: b\n") == [
        (f"{here}/job.yaml:1:10", f"{here}/bsae.yaml: there is no such file")
    ]
    for value in ("3", "", "null", "{a: b}", "[[a]]", "no"):
        found = problems(tmp_path, job=f"extends: {value}\nname: a\nscript: b\n")
        assert [text for _, text in found] == ["extends: expected the path of a spec"]


def test_files_that_multiply_are_refused(tmp_path: Path) -> None:
    many = {f"f{i}": f"extends: [f{i + 1}.yaml, f{i + 1}.yaml]\n" for i in range(30)}
    found = problems(tmp_path, job="extends: f0.yaml\nname: a\nscript: b\n", f30="name: x\n", **many)
    assert any("more than 32 files extend each other" in text for _, text in found)


def overridden(folder: Path, *overrides: str) -> JobSpec:
    return read_spec(str(write(folder, job=BASE)), overrides).job


def test_overrides_set_values_of_every_kind(tmp_path: Path) -> None:
    job = overridden(
        tmp_path,
        "train.epochs=2",
        "train.optimizer.args.lr=0.5",
        "train.optimizer.args.betas=[0.9, 0.99]",
        "train.data.transform.1.target=a.Last",
        "train.model.args.sizes.0=7",
        "resources.nodes=2..4",
        "env.OMP_NUM_THREADS=2",
        "train.schedule={target: a.Cosine}",
        "name=first",
        "name=last",
    )
    assert job.train is not None
    assert job.train.epochs == 2
    assert job.train.optimizer.args == {"lr": 0.5, "betas": [0.9, 0.99]}
    assert [one.target for one in job.train.data.transform or []] == ["a.One", "a.Last"]
    assert job.train.model.args["sizes"] == [7, 2]
    assert str(job.resources.nodes) == "2..4"
    assert job.env == {"A": "1", "OMP_NUM_THREADS": "2"}
    assert job.train.schedule is not None
    assert job.name == "last"


def test_an_empty_value_takes_the_key_out(tmp_path: Path) -> None:
    job = overridden(tmp_path, "train.epochs=", "train.steps=5", "train.data.transform.0=", "restarts.grace=", "env=")
    assert job.train is not None
    assert (job.train.epochs, job.train.steps) == (None, 5)
    assert [one.target for one in job.train.data.transform or []] == ["a.Two"]
    assert job.env == {}


def test_the_source_of_an_override_names_its_key_alone(tmp_path: Path) -> None:
    sources = read_spec(str(write(tmp_path, job=BASE)), ["storage=s3://bucket"]).sources
    assert sources["storage"] == "--set storage"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("train.epochs", "expected key=value"),
        ("=3", "expected key=value"),
        ("", "expected key=value"),
        ("a..b=3", "a key is missing between two dots"),
        ("extends=x", "`extends` can't be set"),
        ("train.epoch=3", "train: unknown key `epoch`"),
        ("trian.epochs=3", "unknown key `trian`"),
        ("train.optimizer.args.lr=3e-4", "`3e-4` is text in YAML 1.1"),
        ("resources.time_limit=1:30", "is the number 90 in YAML 1.1"),
        ("env.X=no", "`no` is the truth value false"),
        ("train.data.transform.2.target=x", "expected the index of a list's item, not `2`"),
        ("train.data.transform.first=x", "expected the index of a list's item, not `first`"),
        ("train.epochs=[1", "not valid YAML"),
        ("train.epochs=!!int 3", "the tag !!int has no meaning"),
        ("name.x=a", "name: expected text, not a mapping"),
    ],
)
def test_overrides_that_are_wrong_show_themselves(tmp_path: Path, override: str, said: str) -> None:
    with pytest.raises(SpecErrors) as caught:
        overridden(tmp_path, override)
    assert said in str(caught.value)
    [problem] = [one for one in caught.value.problems if said in one.text]
    assert str(problem.place).startswith("--set")
    assert f"| {override}\n" in str(caught.value).replace("| \n", "|\n").replace("|\n", "| \n")
