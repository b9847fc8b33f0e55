"""Digits that take their time, so that a test can interrupt a training before it is over."""

import time
from typing import Any

from torchrelay.data.digits import Digits

SECONDS_PER_SAMPLE = 0.001


class PacedDigits(Digits):
    """The same samples as Digits, one millisecond each."""

    def __getitem__(self, index: int) -> Any:
        time.sleep(SECONDS_PER_SAMPLE)
        return super().__getitem__(index)
