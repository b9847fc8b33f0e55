"""What a pod says: lines in its log, and its last words, which `kubectl describe pod` and `status` show."""

import contextlib
import os
from pathlib import Path

from torchrelay.contract.exit_codes import Outcome
from torchrelay.contract.records import OutcomeRecord

TERMINATION_LOG = "/dev/termination-log"
_LONGEST = 4000  # of 4096 bytes that a kubelet takes


def say(text: str) -> None:
    """A line into the pod's log."""
    print(f"torchrelay: {text}", flush=True)  # noqa: T201 - an entry point


def leave_words(text: str) -> None:
    """What the pod's status will hold once it has ended."""
    with (
        contextlib.suppress(OSError),
        Path(os.environ.get("TORCHRELAY_TERMINATION_LOG", TERMINATION_LOG)).open("w") as log,
    ):
        log.write(text[:_LONGEST])


def tell_outcome(outcome: OutcomeRecord, number: int) -> None:
    """Say how an attempt ended after which this pod ends too."""
    error = outcome.failure.error if outcome.failure else ""
    text = f"attempt {number} {outcome.outcome}" + (f": {error}" if error else "")
    say(text)
    if outcome.outcome is Outcome.FAILED:
        leave_words(text)
