"""Where everything lies under a run's URL. All paths are relative to the run and use forward slashes.

    run.json  spec.yaml
    attempts/0001/{attempt,spec,restart-00,heartbeat,stop,outcome}.json
    checkpoints/step-000000200-a0001-r00/{manifest.json, state.json, rank-00000.safetensors, rank-00000.json, ...}
    events/a0001-r00.jsonl
    logs/a0001/node-00.log
    tensorboard/

A sweep is a folder beside its runs, which are called SWEEP-001, SWEEP-002 and so on:

    sweep.json  spec.yaml  stop.json
    points/001.json
    code/  conductor.log

A checkpoint's folder carries the attempt and the restart that write it, so that no two writers ever share a file.
"""

import re
from dataclasses import dataclass

RUN_RECORD = "run.json"
SPEC_SOURCE = "spec.yaml"
ATTEMPTS = "attempts"
CHECKPOINTS = "checkpoints"
EVENTS = "events"
LOGS = "logs"
TENSORBOARD = "tensorboard"

SWEEP_RECORD = "sweep.json"
SWEEP_STOP = "stop.json"

MANIFEST = "manifest.json"
STATE = "state.json"
LARGEST_STEP = 10**12 - 1


@dataclass(frozen=True, order=True)
class Writer:
    """One gang of ranks: the attempt, and how often it was started again within it. Later writers compare greater."""

    attempt: int
    restart: int = 0

    def __str__(self) -> str:
        return f"a{self.attempt:04d}-r{self.restart:02d}"


def attempt_folder(attempt: int) -> str:
    return f"{ATTEMPTS}/{attempt:04d}"


def attempt_file(attempt: int, name: str) -> str:
    """Path of a record of an attempt; `name` is attempt, spec, heartbeat, stop or outcome."""
    return f"{attempt_folder(attempt)}/{name}.json"


def restart_file(writer: Writer) -> str:
    """Path of the record by which a gang claims to be the run's only writer."""
    return f"{attempt_folder(writer.attempt)}/restart-{writer.restart:02d}.json"


def events_file(writer: Writer) -> str:
    """Path of the events that this gang's rank 0 writes."""
    return f"{EVENTS}/{writer}.jsonl"


def node_log(attempt: int, node: int) -> str:
    """Path of what one node printed during an attempt, every line named with its rank."""
    return f"{LOGS}/a{attempt:04d}/node-{node:02d}.log"


def checkpoint_folder(step: int, writer: Writer) -> str:
    """Path of the folder of one checkpoint. Raises: ValueError for a step whose folder would not be found again."""
    if not 0 <= step <= LARGEST_STEP:
        raise ValueError(f"a checkpoint's step is from 0 to {LARGEST_STEP}, not {step}")
    return f"{CHECKPOINTS}/step-{step:09d}-{writer}"


def point_file(number: int) -> str:
    """Path below a sweep of the spec of one of its points, which count from 1."""
    return f"points/{number:03d}.json"


def point_run_id(sweep_id: str, number: int) -> str:
    """The id of the run of a point."""
    return f"{sweep_id}-{number:03d}"


_CHECKPOINT_NAME = re.compile(r"step-(\d{9,12})-a(\d{4,6})-r(\d{2,4})\Z")


def parse_checkpoint_folder(name: str) -> tuple[int, Writer] | None:
    """Step and writer of a folder's name under checkpoints/, or None if it is not a checkpoint's."""
    match = _CHECKPOINT_NAME.match(name)
    if match is None:
        return None
    step, attempt, restart = (int(group) for group in match.groups())
    return step, Writer(attempt, restart)
