"""What a user reads when a checkpoint belongs to another model."""

import pytest
import torch

from torchrelay.checkpoint import check_fits, check_tracked, tensor_shapes
from torchrelay.contract.errors import CheckpointMismatchError


def test_the_same_model_fits() -> None:
    shapes = tensor_shapes({"model": torch.nn.Linear(2, 3).state_dict()})
    assert shapes == {"model/weight": (3, 2), "model/bias": (3,)}
    check_fits(shapes, shapes)
    check_tracked(["model", "optimizer"], ["optimizer", "model"])


def test_another_shape_and_other_names_are_shown() -> None:
    saved = {"model/fc.weight": (10, 128), "model/conv1.weight": (8,), "model/old.bias": (1,)}
    tracked = {"model/fc.weight": (10, 256), "model/conv_1.weight": (8,)}
    with pytest.raises(CheckpointMismatchError) as raised:
        check_fits(saved, tracked, "checkpoints/x")
    text = str(raised.value)
    assert "the checkpoint checkpoints/x holds another model's state" in text
    assert "model/fc.weight: saved (10, 128), model has (10, 256)" in text
    assert "model/conv_1.weight: not in the checkpoint (there is model/conv1.weight)" in text
    assert "model/old.bias: only in the checkpoint\n" in text
    assert not raised.value.retryable
    assert raised.value.exit_code == 78


def test_a_long_difference_is_cut_short() -> None:
    with pytest.raises(CheckpointMismatchError, match=r"\.\.\. and 94 more"):
        check_fits({}, {f"model/{index}": (1,) for index in range(100)})


def test_another_set_of_tracked_objects_is_shown() -> None:
    with pytest.raises(CheckpointMismatchError, match=r"scheduler: in the checkpoint, but not tracked \(there is sch"):
        check_tracked(["model", "scheduler"], ["model", "schedule"])
