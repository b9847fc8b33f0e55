"""What runs in every pod: takes part in one attempt after the other, until the run ends or the pod has to go.

    python -m torchrelay_launch.backends.kubernetes.pod --run URL --attempt N --job NAME --nodes K ...

When one pod goes, the others stay: their supervisors end, and they wait here for the attempt that the first pod begins
next. That takes seconds, where new pods would wait for the Job controller's back-off, the scheduler and the image.
"""

import os
import signal
import sys
from types import FrameType

_terminated: list[int] = []


def _note(number: int, _frame: FrameType | None) -> None:
    _terminated.append(number)


def main(argv: list[str]) -> int:
    """Take part in the run. Returns the pod's exit code."""
    for number in (signal.SIGTERM, signal.SIGINT):  # the kernel spares process 1 every signal without a handler
        signal.signal(number, _note)
    from torchrelay_launch.backends.kubernetes.participation import take_part

    return take_part(argv, _terminated)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    os._exit(code)  # a thread that hangs in a storage call must not hold up the end
