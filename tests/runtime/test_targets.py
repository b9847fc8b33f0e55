"""Targets: what is built, and what is said when it can't be."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.training import Target
from torchrelay.train.targets import Builder, nearest, with_auto

SOURCES = {
    "train.model": "job.yaml:3:5",
    "train.model.target": "job.yaml:3:14",
    "train.model.args": "job.yaml:4:5",
    "train.model.args.sizes": "job.yaml:4:12",
    "train.data.transform.1.target": "--set train.data.transform",
}


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the user's own, `own_targets`, that can be imported."""
    folder = tmp_path / "own_targets"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "later.py").write_text(
        "class Net:\n    class Inner: pass\n    def __init__(self, width): self.width = width\n"
    )
    (folder / "needy.py").write_text("import not_installed_anywhere\n")
    (folder / "broken.py").write_text("x = 1\nraise KeyError('at import')\n")
    (folder / "failing.py").write_text(
        "import errno\n"
        "def value(x): raise ValueError(f'x may not be {x}')\n"
        "def key(): return {}['missing']\n"
        "def missing_file(): open('/nowhere/at/all')\n"
        "def disk(): raise OSError(errno.EIO, 'broken disk')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def build(path: str, where: str = "train.model", *positional: Any, **args: Any) -> Any:
    return Builder(SOURCES).build(Target(path, args), where, *positional)


def test_a_target_is_called_with_its_arguments() -> None:
    model = build("torchrelay.models.mlp", sizes=[4, 2], dropout=0.5)
    assert model(torch.zeros(1, 4)).shape == (1, 2)


@pytest.mark.parametrize("path", ["own_targets.later.Net", "own_targets.later:Net"])
@pytest.mark.usefixtures("own_package")
def test_modules_are_imported_as_needed(path: str) -> None:
    assert build(path, width=3).width == 3


@pytest.mark.usefixtures("own_package")
def test_names_may_lie_in_a_class() -> None:
    assert type(build("own_targets.later:Net.Inner")).__name__ == "Inner"


def test_arguments_that_are_targets_are_built_first() -> None:
    inner = {"target": "torch.nn.Linear", "args": {"in_features": 2, "out_features": 3}}
    made = build("torch.nn.Sequential", "train.model", nn.Flatten())
    assert isinstance(made, nn.Sequential)
    wrapped = build("torch.nn.TransformerEncoderLayer", d_model=4, nhead=2, activation={"target": "torch.nn.GELU"})
    assert isinstance(wrapped.activation, nn.GELU)
    listed = build("torch.nn.ModuleList", modules=[inner, inner])
    assert [tuple(layer.weight.shape) for layer in listed] == [(3, 2), (3, 2)]


def test_positional_and_shared_arguments() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    target = Target("torch.optim.SGD", {"lr": 0.5})
    optimizer = Builder().build(target, "train.optimizer", [parameter], lr=0.1, momentum=0.9)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["momentum"] == 0.9


@pytest.mark.parametrize(
    ("path", "args", "says"),
    [
        ("torch.optim.Adma", {}, "job.yaml:3:14: train.model.target: torch.optim.Adma: torch.optim has no 'Adma'"),
        ("torchrelay.models.mpl", {}, r"did you mean torchrelay.models.mlp\?"),
        ("no_such_package.Net", {}, "there is no module 'no_such_package'"),
        ("no_such_package:Net", {}, "there is no module 'no_such_package'"),
        ("own_targets.absent:Net", {}, "there is no module 'own_targets.absent'"),
        ("own_targets.needy.Net", {}, "own_targets.needy needs the module 'not_installed_anywhere'"),
        ("own_targets.broken.Net", {}, r"importing own_targets.broken failed: KeyError: 'at import' \(.*broken.py:2\)"),
        ("torch.pi", {}, "job.yaml:3:14: train.model.target: torch.pi is a float and can't be called"),
        ("torchrelay.models.mlp", {"size": [1]}, r"args.size: .* takes no argument 'size'; did you mean 'sizes'\?"),
        ("torchrelay.models.mlp", {"qqq": 1}, "takes no argument 'qqq'; it takes sizes, dropout"),
        ("torchrelay.models.mlp", {}, "job.yaml:4:5: train.model.args: .*missing a required argument: 'sizes'"),
        ("torchrelay.models.mlp", {"sizes": [1]}, "job.yaml:3:5: train.model: torchrelay.models.mlp: sizes"),
        (
            "torchrelay.models.mlp",
            {"sizes": [4, 2, 2], "dropout": 7},
            r"refused its arguments \(sizes=\[4, 2, 2\], dropout=7\): dropout probability",
        ),
        ("torchrelay.models.mlp", {"sizes": {"target": "torch.nope"}}, "job.yaml:4:12: train.model.args.sizes"),
        ("torchrelay.models.mlp", {"sizes": {"target": "torch.ones", "args": 3}}, "expected arguments by name, got 3"),
        ("own_targets.failing.value", {"x": 3}, r"refused its arguments \(x=3\): x may not be 3 \(.*failing.py:2\)"),
        ("own_targets.failing.key", {}, "refused its arguments: KeyError: 'missing'"),
        ("own_targets.failing.missing_file", {}, "No such file or directory: '/nowhere/at/all'"),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("own_package")
def test_every_mistake_says_what_and_where(path: str, args: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        build(path, **args)
    assert "train.model" in str(caught.value)


@pytest.mark.usefixtures("own_package")
def test_a_disk_in_trouble_is_not_the_users_mistake() -> None:
    with pytest.raises(OSError, match="broken disk"):
        build("own_targets.failing.disk")


def test_the_place_is_that_of_the_nearest_value_that_was_written() -> None:
    error = Builder(SOURCES).error("train.data.transform.1.target", "wrong")
    assert str(error) == "--set train.data.transform: train.data.transform.1.target: wrong"
    assert str(Builder(SOURCES).error("train.model.args.sizes.3", "wrong")).startswith("job.yaml:4:12: ")
    assert str(Builder(SOURCES).error("elsewhere", "wrong")) == "elsewhere: wrong"


def test_auto_is_replaced_however_deep() -> None:
    args: Any = {"T_max": "auto", "milestones": [1, "auto"], "inner": {"args": {"total": "auto"}}, "mode": "autos"}
    assert with_auto(args, 7) == {"T_max": 7, "milestones": [1, 7], "inner": {"args": {"total": 7}}, "mode": "autos"}


def test_nearest() -> None:
    assert nearest("crossentropy", ["cross_entropy", "mse_loss"]) == "cross_entropy"
    assert nearest("adam", ["Adam", "SGD"]) == "Adam"
    assert nearest("zzz", ["Adam"]) is None
