"""Data that takes its time, so that a test can interrupt a training before it is over."""

import time
from pathlib import Path
from typing import Any

from torchvision.datasets import MNIST

from torchrelay.data.digits import Digits

PACE = Path(__file__).with_name("pace")  # a test may write into it, at any time, how many seconds a sample takes
SECONDS_PER_SAMPLE = 0.001


def take_time() -> None:
    """As long as one sample takes."""
    try:
        time.sleep(float(PACE.read_text()))
    except (FileNotFoundError, ValueError):  # there is none, or it is just being written
        time.sleep(SECONDS_PER_SAMPLE)


class PacedDigits(Digits):
    """The same samples as Digits."""

    def __getitem__(self, index: int) -> Any:
        take_time()
        return super().__getitem__(index)


class PacedMNIST(MNIST):
    """The same samples as MNIST, from a folder named after this class."""

    def __getitem__(self, index: int) -> Any:
        take_time()
        return super().__getitem__(index)
