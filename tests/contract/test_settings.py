import json

from torchrelay.contract.settings import from_json, to_json
from torchrelay.contract.training import Checkpoint, Data, KeepBest, Schedule, Target, Train
from torchrelay.contract.units import Interval


def a_section(**changes: object) -> Train:
    needed = {
        "task": "classification",
        "data": Data(train=Target("pkg.Set", {"root": "x"}), transform=[Target("pkg.Flip")]),
        "model": Target("pkg.Net"),
        "optimizer": Target("pkg.Opt", {"lr": 0.1}),
        "global_batch": 8,
    }
    return Train(**(needed | changes))  # type: ignore[arg-type]


def test_models_survive_the_way_through_json() -> None:
    train = a_section(loss=Target("pkg.Loss"), schedule=Schedule("pkg.Sched"), evaluate_every=Interval(5, 60.0))
    assert from_json(Train, json.loads(json.dumps(to_json(train)))) == train


def test_a_union_takes_text_as_well_as_a_model() -> None:
    train = a_section(loss="mse_loss")
    assert from_json(Train, to_json(train)).loss == "mse_loss"


def test_optional_models_may_be_missing() -> None:
    checkpoint = Checkpoint(keep_best=KeepBest("val/loss"))
    assert from_json(Checkpoint, to_json(checkpoint)) == checkpoint
    assert from_json(Checkpoint, {}).keep_best is None
