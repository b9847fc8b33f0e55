"""Work on a thread of its own, and how it makes room for the training."""

import os
import threading

from torchrelay.checkpoint.pending import Pending


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_yielding_work_and_what_it_starts_comes_after_the_training() -> None:
    own = niceness()
    lower = min(own + 10, 19)  # there is nothing below 19
    assert Pending(niceness, "plain").result() == own
    assert Pending(niceness, "yielding", yielding=True).result() == lower
    assert Pending(lambda: Pending(niceness, "inner").result(), "outer", yielding=True).result() == lower
    assert niceness() == own
