"""Whole error reports, as a user sees them."""

from collections.abc import Callable
from pathlib import Path

import pytest

from torchrelay_launch.spec.reader import SpecErrors, read_spec

MANY = """\
name: My Job
train:
  task: classfication
  data:
    train: torchvision.datasets.MNIST
    val: {target: torchvision.datasets.MNIST, args: {root: data, train: no, day: 2024-01-01}}
    workers: two
  model: {target: torchrelay.models.mlp, arg: {sizes: [784, 10]}}
  optimizer: {target: torch.optim.Adam, args: {lr: 3e-4, eps: }}
  schedule:
  global_batch: 64.0
  epochs: 10
  steps: 5
  precision: fp8
resources: {nodes: 2-8, procs_per_node: 0, memory: 4G, time_limit: 12:00:00}
checkpoint: {every: 200, keep_best: {metric: val/loss, mode: minimum}}
restart: {grace: 120}
torchrun: {nnodes: 2, numa-bindin: node}
env: {OMP_NUM_THREADS: 1, HF_TOKEN: hf_not_a_real_token, VERSION: 3.10, COUNTRY: no}
secrets: [AWS_SECRET_ACCESS_KEY=abcdef]
process_group: nccl
"""
ODD = (
    "name: job\nscript: train.py\n"
    'env: {說明: "日本語", B: no}\n'
    + 'slurm: {extra: {long: "'
    + "x" * 150
    + '", mode: 010, after: "'
    + "y" * 150
    + '"}}\n'
    + "storage:\t3\n"
)


def report(folder: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str, **files: str) -> SpecErrors:
    monkeypatch.chdir(folder)
    for name, text in files.items():
        Path(f"{name}.yaml").write_text(text)
    with pytest.raises(SpecErrors) as caught:
        read_spec("job.yaml", overrides)
    return caught.value


Golden = Callable[[str, str], None]


def test_many_errors_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden_file: Golden) -> None:
    golden_file("spec-many-errors.txt", f"{report(tmp_path, monkeypatch, job=MANY)}\n")


def test_errors_in_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden_file: Golden) -> None:
    errors = report(
        tmp_path,
        monkeypatch,
        "train.optimzer.args.lr=0.1",
        "resources.time_limit=12:00:00",
        base=MANY[: MANY.index("resources")],
        job="extends: base.yaml\nname: child\ntrain: {global_batch: 8, precision: fp61}\n",
    )
    golden_file("spec-errors-in-layers.txt", f"{errors}\n")


def test_wide_characters_and_long_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden_file: Golden) -> None:
    golden_file("spec-odd-lines.txt", f"{report(tmp_path, monkeypatch, job=ODD)}\n")


def test_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, golden_file: Golden) -> None:
    golden_file("spec-missing-file.txt", f"{report(tmp_path, monkeypatch, jobs=MANY)}\n")


def test_colour_changes_nothing_but_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import re

    errors = report(tmp_path, monkeypatch, job=MANY)
    coloured = errors.report(colour=True)
    assert "\x1b[31m" in coloured
    assert "\x1b" not in str(errors)
    assert re.sub("\x1b\\[[0-9]+m", "", coloured) == str(errors)


def test_a_spec_cannot_write_to_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    errors = report(tmp_path, monkeypatch, job="name: a\nscript: b\n\x1b[31mred: 1\n")
    assert "\x1b" not in str(errors)
    errors = report(tmp_path, monkeypatch, job='name: "\\e[31m\\u202e"\nscript: b\n"\\e]0;title": 1\n')
    assert "\x1b" not in str(errors)
    assert "\u202e" not in str(errors)
