"""How often a gang may fail before the attempt gives up: a pure state machine."""

import re
import signal
from dataclasses import dataclass

from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import Failure

LONGEST_DELAY_S = 30.0
# Sent from outside, by a person, the kernel's memory killer or a node going down: the same again says nothing.
_FROM_OUTSIDE = {signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT}


@dataclass(frozen=True)
class Decision:
    """Whether to start the ranks again after a failure, and why or why not."""

    restart: bool
    delay_s: float
    reason: str


class Budget:
    """`allowed` failures since the newest committed checkpoint; a new one refills it."""

    def __init__(self, allowed: int, checkpoint: int | None = None) -> None:
        self.allowed = allowed
        self._failures = 0  # since the newest checkpoint
        self._checkpoint = checkpoint
        self._last: tuple[str, int | None] | None = None

    def after(self, failure: Failure, checkpoint: int | None) -> Decision:
        """What to do after a failure, when `checkpoint` is the step of the newest committed one."""
        if not failure.retryable or not _retryable(failure.exit_code):
            return Decision(restart=False, delay_s=0, reason="starting again would end the same way")
        if checkpoint != self._checkpoint:
            self._checkpoint, self._failures, self._last = checkpoint, 0, None
        self._failures += 1
        repeated = self._last == _sameness(failure) and not _from_outside(failure.exit_code)
        self._last = _sameness(failure)
        if self._failures > self.allowed:
            return Decision(restart=False, delay_s=0, reason=self._spent())
        if repeated:
            return Decision(restart=False, delay_s=0, reason="the same error came twice in a row without any progress")
        return Decision(restart=True, delay_s=self._delay(), reason=f"restart {self._failures} of {self.allowed}")

    def _delay(self) -> float:
        """The first restart is immediate; then 1, 2, 4, ... seconds."""
        return 0.0 if self._failures == 1 else min(LONGEST_DELAY_S, 2.0 ** min(self._failures - 2, 10))

    def _spent(self) -> str:
        if self.allowed == 0:
            return "restarts.on_failure is 0"
        return f"failed {self._failures} times since the last checkpoint, restarts.on_failure is {self.allowed}"


def _retryable(exit_code: int) -> bool:
    return ExitCode(exit_code).retryable if exit_code in list(ExitCode) else True


def _from_outside(exit_code: int) -> bool:
    return exit_code - 128 in {int(number) for number in _FROM_OUTSIDE}


def _sameness(failure: Failure) -> tuple[str, int | None]:
    """What two failures have in common if they are the same: neither ranks nor pids, ports or addresses."""
    last_line = failure.traceback.strip().rpartition("\n")[2]
    text = re.sub(r"0x[0-9a-f]+|\d+", "#", last_line or re.sub(r"\brank \d+ \(node \d+\)", "", failure.error))
    return f"{failure.exit_code} {text}", failure.step
