"""Digits, and DataLoader workers that linger, if a test wants it, with torch's own signal handlers and no others."""

import os
import time
from pathlib import Path

from torch.utils.data._utils import signal_handling

from torchrelay.data.digits import Digits

__all__ = ["Digits"]
LINGER = Path(__file__).with_name("linger")  # while it is there
_set_handlers = signal_handling._set_worker_signal_handlers


def _set_and_linger() -> None:
    _set_handlers()
    while LINGER.exists():
        LINGER.with_name(f"lingering-{os.getpid()}").touch()
        time.sleep(0.01)


signal_handling._set_worker_signal_handlers = _set_and_linger
