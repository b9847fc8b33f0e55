"""A small convolutional net for small images."""

from torch import nn

from torchrelay.contract.errors import ConfigError


def cnn(
    size: int = 28,
    channels: int = 1,
    classes: int = 10,
    widths: tuple[int, int] = (32, 64),
    hidden: int = 128,
    dropout: float = 0.25,
) -> nn.Module:
    """Two 3x3 convolutions with ReLU, 2x2 max pooling, dropout, and two linear layers.

    Takes images (batch, channels, size, size) float32; gives (batch, classes).
    """
    if size < 2:
        raise ConfigError(f"size {size}: expected images of at least 2x2 pixels")
    first, second = widths
    return nn.Sequential(
        nn.Conv2d(channels, first, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(second * (size // 2) ** 2, hidden),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(hidden, classes),
    )
