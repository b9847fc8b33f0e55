"""What a node says of itself to `torchrelay doctor`: written by torchrelay.node_check, read by the launcher.

node-00.json          the report, replaced as the check gets further
met/node-00.json      made once by each node, for the others to find
first-node.json       made by the batch script: why jobs cannot be submitted from the nodes, if they cannot
"""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

from torchrelay.contract.errors import StorageError
from torchrelay.contract.storage import Storage

FIRST_NODE = "first-node.json"
DONE = "done"


@dataclass(frozen=True)
class NodeReport:
    """One node. What could not be found out is empty or None; an error says why."""

    node: int
    host: str
    stage: str = "starting"  # what it was doing when it wrote this; `done` at the end
    python: str = ""  # version
    torchrelay: str = ""  # version
    workdir: str = ""
    program: str = ""  # digest of the job's own program, as this node reads it
    missing_nodes: list[int] = field(default_factory=list)  # whose files were not seen in time
    seen_after_s: float = 0.0
    open_files: int = -1  # limits; -1 for none
    locked_bytes: int = -1
    shared_bytes: int | None = None  # free in /dev/shm
    torch: str = ""  # version
    torch_error: str = ""
    gpus: list[str] = field(default_factory=list)
    gpu_errors: list[str] = field(default_factory=list)
    process_group: str = ""  # gloo or nccl
    reduce_error: str = ""
    reduce_s: float | None = None  # for one all-reduce of REDUCED_BYTES
    met_at: float | None = None  # this node's clock when all nodes had just met


def report_file(node: int) -> str:
    return f"node-{node:02d}.json"


def met_file(node: int) -> str:
    return f"met/{report_file(node)}"


def write(storage: Storage, report: NodeReport) -> None:
    """Raises: StorageError."""
    storage.replace(report_file(report.node), json.dumps(dataclasses.asdict(report), indent=1).encode())


def read(storage: Storage, node: int) -> NodeReport | None:
    """A node's report, or None if it wrote none. Raises: StorageError."""
    path = report_file(node)
    try:
        values: dict[str, Any] = json.loads(storage.read(path))
        known = {one.name for one in dataclasses.fields(NodeReport)}
        return NodeReport(**{key: value for key, value in values.items() if key in known})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"{storage.url}/{path} is damaged: {error}") from error
