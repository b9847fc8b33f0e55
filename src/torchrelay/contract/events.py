"""Events: one JSON object a line, written by rank 0, read by `status`, `describe` and the progress line.

Every event has `event` (its kind), `t` (seconds since the epoch) and, where one applies, `step` (steps done). A gang
writes its own file, so a resumed run can have events of the same step twice; the later file's hold.

    started     step, total_steps, world_size, resumed_from (a checkpoint's folder, or null)
    step        step, total_steps, metrics: {loss, lr, grad_norm, samples_per_s, data_wait_s, step_s, memory_bytes, ...}
    evaluation  step, metrics: {val/loss, val/accuracy, ...}
    checkpoint  step, folder, bytes, seconds (until committed), stall_s (training stood still), waited_s (the part of it
                until the save before was done); a save in the background may tell of a step after later steps have;
                with `every: auto` also cost_s (what training lost by it) and interval_s (until the next is due)
    checkpoint_failed  step, error
    stopping    step, reason
    ended       step, outcome, exit_code
"""

import json
from collections.abc import Iterator

from torchrelay.contract import layout
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Storage

Event = dict[str, Json]


def encode(event: Event) -> bytes:
    """One line of an events file."""
    return (json.dumps(event, separators=(",", ":")) + "\n").encode()


def decode(data: bytes) -> Iterator[Event]:
    """The events in `data`; a last line that is still being written is left out, as is one that was torn."""
    for line in data.split(b"\n")[:-1]:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def read_all(storage: Storage) -> Iterator[Event]:
    """All events of a run, writer by writer."""
    for name in storage.list(layout.EVENTS):
        yield from decode(storage.read(f"{layout.EVENTS}/{name}"))
