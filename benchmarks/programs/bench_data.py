"""A data set in memory and a model whose step takes about 5 ms with two ranks on two cores."""

from itertools import pairwise

import torch
from torch import Tensor, nn

SIZES = (784, 256, 256, 10)
GLOBAL_BATCH = 128
SAMPLES = 12_800


class Synthetic(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Random inputs of 784 values with random labels out of 10."""

    draws_nothing = True  # neither does it on the other side, which does not seed samples at all

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(SAMPLES, SIZES[0], generator=generator)
        self.labels = torch.randint(SIZES[-1], (SAMPLES,), generator=generator).tolist()

    def __len__(self) -> int:
        return SAMPLES

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.inputs[index], self.labels[index]


def perceptron() -> nn.Module:
    """The model of both sides."""
    layers: list[nn.Module] = []
    for width, following in pairwise(SIZES):
        layers += [nn.Linear(width, following), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
