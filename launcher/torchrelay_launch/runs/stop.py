"""Asking a running attempt to stop, through its storage."""

import time
from typing import Literal

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.records import StopRequest
from torchrelay.contract.storage import Storage
from torchrelay_launch.runs.claims import user_at_host
from torchrelay_launch.runs.status import run_status


def request_stop(storage: Storage, kind: Literal["stop", "cancel"]) -> StopRequest:
    """Ask the newest attempt to stop with a checkpoint ("stop") or now ("cancel"); its supervisor sees it soon.

    Asking again changes nothing, except that a cancel takes the place of a stop.

    Raises: ConfigError if no attempt of the run is alive; StorageError.
    """
    status = run_status(storage)
    if not status.live:
        raise ConfigError(f"the run {status.run_id} is not running: it is {status.state}; there is nothing to {kind}")
    path = layout.attempt_file(status.attempts, "stop")
    request = StopRequest(kind, time.time(), user_at_host())
    try:
        storage.create(path, records.dump(request))
    except FileExistsError:
        earlier = records.read(storage, StopRequest, path)
        if earlier and (kind == "stop" or earlier.kind == "cancel"):
            return earlier
        storage.replace(path, records.dump(request))
    return request
