"""A run and its attempts in storage: finding, creating, claiming, stopping, and telling how it stands.

Everything here is read from or written to the run's storage alone, so any launcher that can read the URL can do it.
"""

from torchrelay_launch.runs.claims import SweepPoint, claim, claim_attempt, create_run, new_attempt, new_run_id
from torchrelay_launch.runs.locate import find_run, open_for, storage_url
from torchrelay_launch.runs.status import AttemptStatus, RunStatus, list_runs, run_status
from torchrelay_launch.runs.stop import request_stop

__all__ = [
    "AttemptStatus",
    "RunStatus",
    "SweepPoint",
    "claim",
    "claim_attempt",
    "create_run",
    "find_run",
    "list_runs",
    "new_attempt",
    "new_run_id",
    "open_for",
    "request_stop",
    "run_status",
    "storage_url",
]
