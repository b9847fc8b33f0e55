"""A multilayer perceptron."""

from itertools import pairwise

from torch import nn

from torchrelay.contract.errors import ConfigError


def mlp(sizes: list[int], dropout: float = 0.0) -> nn.Module:
    """Linear layers of the given sizes, with ReLU and dropout between them.

    Takes inputs (batch, ...) float32, flattened to (batch, sizes[0]); gives (batch, sizes[-1]).
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ConfigError(f"sizes {sizes}: expected at least an input and an output size, all 1 or more")
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in pairwise(sizes[:-1]):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))
