"""Work on a thread of its own, and how it makes room for the training."""

import os
import threading

from torchrelay.checkpoint.pending import Pending


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_yielding_work_and_what_it_starts_comes_after_the_training() -> None:
    own = niceness()
    assert Pending(niceness, "plain").result() == own
    assert Pending(niceness, "yielding", yielding=True).result() == own + 10
    assert Pending(lambda: Pending(niceness, "inner").result(), "outer", yielding=True).result() == own + 10
    assert niceness() == own
