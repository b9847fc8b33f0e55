"""The models: shapes, and that a token sees only what came before it."""

import pytest
import torch
from torch import nn

from torchrelay.contract.errors import ConfigError
from torchrelay.models import cnn, gpt, mlp


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_mlp() -> None:
    model = mlp([784, 256, 128, 10], dropout=0.2)
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    assert parameters(model) == 784 * 256 + 256 + 256 * 128 + 128 + 128 * 10 + 10
    assert [type(layer).__name__ for layer in model].count("Dropout") == 2
    assert parameters(mlp([4, 2])) == 10


@pytest.mark.parametrize("sizes", [[], [3], [3, 0]])
def test_mlp_refuses_sizes_that_make_no_layer(sizes: list[int]) -> None:
    with pytest.raises(ConfigError, match="sizes"):
        mlp(sizes)


@pytest.mark.parametrize(("size", "channels", "classes"), [(8, 1, 10), (28, 1, 10), (9, 3, 4)])
def test_cnn(size: int, channels: int, classes: int) -> None:
    model = cnn(size=size, channels=channels, classes=classes)
    assert model(torch.zeros(2, channels, size, size)).shape == (2, classes)
    assert [layer.out_channels for layer in model if isinstance(layer, nn.Conv2d)] == [32, 64]


def test_cnn_refuses_images_it_would_pool_away() -> None:
    with pytest.raises(ConfigError, match="size 1"):
        cnn(size=1)


def test_gpt_sees_only_what_came_before() -> None:
    torch.manual_seed(0)
    model = gpt(10, block=8, layers=2, heads=2, width=16).eval()
    tokens = torch.randint(10, (1, 8))
    changed = tokens.clone()
    changed[0, 5] = (changed[0, 5] + 1) % 10
    before, after = model(tokens), model(changed)
    assert before.shape == (1, 8, 10)
    assert torch.allclose(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_gpt_takes_shorter_inputs_but_no_longer_ones() -> None:
    model = gpt(10, block=8, layers=1, heads=2, width=16)
    assert model(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 10)
    with pytest.raises(ValueError, match="9 tokens, but the model takes at most 8"):
        model(torch.zeros(1, 9, dtype=torch.int64))


def test_gpt_can_tie_its_weights() -> None:
    sizes = {"block": 8, "layers": 1, "heads": 2, "width": 16}
    tied, free = gpt(10, **sizes, tie_weights=True), gpt(10, **sizes)
    assert parameters(free) - parameters(tied) == 10 * 16
    assert tied.head.weight is tied.tokens.weight


def test_gpt_drops_out_in_training_only() -> None:
    model = gpt(10, block=8, layers=1, heads=2, width=16, dropout=0.5)
    tokens = torch.zeros(1, 8, dtype=torch.int64)
    assert not torch.equal(model(tokens), model(tokens))
    model.eval()
    assert torch.equal(model(tokens), model(tokens))


def test_gpt_needs_heads_that_divide_its_width() -> None:
    with pytest.raises(ConfigError, match="3 heads"):
        gpt(10, heads=3, width=16)
