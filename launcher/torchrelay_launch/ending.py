"""The moment between an attempt's outcome and the end of its supervisor."""

import socket
import time

from torchrelay_launch import processes
from torchrelay_launch.runs.status import AttemptStatus

_PATIENCE_S = 10.0


def leaving(attempt: AttemptStatus) -> bool:
    """Whether an attempt has its outcome, but its supervisor, on this machine, still cleans up."""
    outcome, heartbeat = attempt.outcome, attempt.heartbeat
    if outcome is None or heartbeat is None or time.time() - outcome.at > _PATIENCE_S:
        return False
    here = heartbeat.host == socket.gethostname() and heartbeat.boot_id == processes.boot_id()
    return here and processes.alive(heartbeat.pid, heartbeat.process_started)
