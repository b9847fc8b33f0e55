"""scikit-learn's handwritten digits: 1,797 images of 8x8 pixels, small enough to travel with it."""

from collections.abc import Callable
from typing import Any

import torch

from torchrelay.contract.errors import ConfigError
from torchrelay.data.order import EpochOrder

_TRAIN_SHARE = 0.8
_SPLIT_SEED = 0
_BRIGHTEST = 16.0
_MEAN, _STD = 0.3053, 0.3761  # of all pixels in 0..1


class Digits:
    """One part of a fixed 80/20 split: 1,437 digits to train on, or 360 to test on.

    A sample is an image, (1, 8, 8) float32, and its class, an int. `normalize` takes the images from 0..1 to mean 0 and
    standard deviation 1; `transform` gets the image as it is then.
    """

    def __init__(
        self, train: bool, transform: Callable[[torch.Tensor], Any] | None = None, normalize: bool = False
    ) -> None:
        images, labels = _load()
        order = torch.from_numpy(EpochOrder(len(labels), _SPLIT_SEED, 0)[:])
        cut = int(len(labels) * _TRAIN_SHARE)
        chosen = order[:cut] if train else order[cut:]
        self.images = (images[chosen] - _MEAN) / _STD if normalize else images[chosen]
        self.labels: list[int] = labels[chosen].tolist()
        self.transform = transform
        self.draws_nothing = transform is None

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        image = self.images[index]
        return (self.transform(image) if self.transform else image), self.labels[index]


def _load() -> tuple[torch.Tensor, torch.Tensor]:
    """Images (1797, 1, 8, 8) float32 in 0..1, and classes (1797,) int64."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ConfigError("the digits come with scikit-learn: pip install scikit-learn") from None
    pixels, labels = load_digits(return_X_y=True)
    images = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / _BRIGHTEST
    return images, torch.as_tensor(labels, dtype=torch.int64)
