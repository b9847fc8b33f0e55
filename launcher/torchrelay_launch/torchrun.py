"""From a job to the torchrun command of one node and the environment of its ranks: pure functions, read off by tests.

What was looked up in torch 2.11 to 2.14 (torch/distributed/run.py, elastic/rendezvous, elastic/agent):

- One node: the c10d rendezvous on port 0 lets the TCP store itself take a free port, so nothing can take it in
  between; a static rendezvous needs the port in advance. Without `--local-addr` the agent tells ranks the machine's
  full host name, which need not resolve.
- Several nodes, fixed: `--node-rank`, `--master-addr` and `--master-port` without an endpoint are the static
  rendezvous, whose store listens on that port.
- Elastic: who hosts the c10d store is guessed from the host name, which two agents on one machine both match;
  `is_host` says it.
- torchrun puts its line prefix before every piece of text that it reads, also in the middle of a line that two pieces
  share (a rank wrote no line end, or wrote it late), so the prefix must be one that can be told apart anywhere.
"""

import re
import zlib
from dataclasses import dataclass

from torchrelay.contract.settings import Json
from torchrelay_launch.spec.models import JobSpec

LOG_PREFIX = "<torchrelay rank ${rank}> "
LOG_PREFIX_PATTERN = re.compile(r"<torchrelay rank (\d+)> ")

TRAINER = "torchrelay.train"
LAST_CALL_S = 15  # an elastic gang that is not complete starts so long after the last of its least nodes has come

_LOOPBACK = "127.0.0.1"
_SHUTDOWN_TIMEOUT_SINCE = (2, 13)
_FIRST_PORT, _PORTS, _TORCHRUN_DEFAULT_PORT = 20000, 10000, 29500


@dataclass(frozen=True)
class Placement:
    """Where and as what one node's torchrun starts."""

    node: int  # index of this node, from 0
    nodes: int  # nodes that start together; at most the job's maximum
    master_addr: str  # where node 0 can be reached
    master_port: int
    run_id: str
    restart: int  # how often the gang was started before in this attempt
    log_dir: str
    torch_version: str  # of the torch that will run, such as "2.14.1"
    python: str
    node_addr: str = ""  # where the other nodes reach this one; without it torchrun asks for the host's full name

    @property
    def rendezvous_id(self) -> str:
        """Names one start of the gang, so that an agent left over from an earlier one can't join it."""
        return f"{self.run_id}-r{self.restart}"


def torchrun_argv(job: JobSpec, placement: Placement) -> list[str]:
    """The command that starts this node's share of the ranks."""
    return [
        *(placement.python, "-m", "torch.distributed.run"),
        *_rendezvous(job, placement),
        *("--nproc-per-node", str(job.resources.world_procs_per_node)),
        *("--max-restarts", str(job.restarts.torchrun)),
        *_shutdown_timeout(job, placement.torch_version),
        *("--tee", "3", "--redirects", "3", "--log-dir", placement.log_dir),
        *_passed_through(job.torchrun),
        *_program(job),
    ]


def rank_environment(job: JobSpec) -> dict[str, str]:
    """What torchrun and its ranks get beside the inherited environment. `env:` of the job comes before all else."""
    environment = {
        "PYTHONUNBUFFERED": "1",
        "TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE": LOG_PREFIX,
    }
    if job.resources.cpus_per_proc:
        environment["OMP_NUM_THREADS"] = str(job.resources.cpus_per_proc)
    elif job.resources.world_procs_per_node > 1:
        environment["OMP_NUM_THREADS"] = "1"  # what torchrun does too, with a banner in the log
    if job.restarts.torchrun:
        # Ranks restarted in place hang on stale addresses in a shared store (pytorch#135712).
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    return environment | job.env


def run_port(run_id: str, restart: int) -> int:
    """Port of a gang's rendezvous: the same on every node, another at every restart, in 20000-29999, never 29500."""
    index = (zlib.crc32(run_id.encode()) + restart) % (_PORTS - 1)
    port = _FIRST_PORT + index
    return port if port < _TORCHRUN_DEFAULT_PORT else port + 1


def split_by_rank(line: str) -> list[tuple[int | None, str]]:
    """The pieces of one line that torchrun printed, each with its rank; None is torchrun itself."""
    head, *rest = LOG_PREFIX_PATTERN.split(line)
    pieces: list[tuple[int | None, str]] = [(None, head)] if head or not rest else []
    return pieces + [(int(rank), text) for rank, text in zip(rest[::2], rest[1::2], strict=True)]


def _rendezvous(job: JobSpec, placement: Placement) -> list[str]:
    nodes = job.resources.nodes
    if not nodes.elastic and placement.nodes == 1:
        return ["--nnodes", "1", *_c10d(f"{_LOOPBACK}:0", placement), "--local-addr", _LOOPBACK]
    # Only with c10d do the other nodes' agents notice that one has restarted its ranks in place.
    if nodes.elastic or job.restarts.torchrun:
        return ["--nnodes", _node_range(job, placement), *_c10d_shared(placement)]
    return [
        *("--nnodes", str(placement.nodes), "--node-rank", str(placement.node)),
        *("--master-addr", placement.master_addr, "--master-port", str(placement.master_port)),
        *("--rdzv-backend", "static", "--rdzv-id", placement.rendezvous_id),
        *_local_addr(placement),
    ]


def _c10d(endpoint: str, placement: Placement) -> list[str]:
    return ["--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint, "--rdzv-id", placement.rendezvous_id]


def _c10d_shared(placement: Placement) -> list[str]:
    """The c10d rendezvous of several nodes: node 0 hosts the store."""
    is_host = "true" if placement.node == 0 else "false"
    return [
        *_c10d(f"{placement.master_addr}:{placement.master_port}", placement),
        *("--rdzv-conf", f"is_host={is_host},last_call_timeout={LAST_CALL_S}"),
        *_local_addr(placement),
    ]


def _node_range(job: JobSpec, placement: Placement) -> str:
    """From the least that the job needs to those that start now: with all of them there is nothing to wait for."""
    least = min(job.resources.nodes.minimum, placement.nodes)
    return f"{least}:{placement.nodes}"


def _local_addr(placement: Placement) -> list[str]:
    """The address that this node goes by; all nodes of a rehearsal on one machine share the loopback one."""
    loopback = placement.master_addr in {_LOOPBACK, "localhost", "::1"}
    address = placement.node_addr or (placement.master_addr if loopback else "")
    return ["--local-addr", address] if address else []


def _shutdown_timeout(job: JobSpec, torch_version: str) -> list[str]:
    """`restarts.grace` as torchrun's own patience; older ones don't have the option."""
    match = re.match(r"(\d+)\.(\d+)", torch_version)
    if match is None or (int(match[1]), int(match[2])) < _SHUTDOWN_TIMEOUT_SINCE:
        return []
    return ["--shutdown-timeout", str(max(1, round(job.restarts.grace)))]


def _passed_through(options: dict[str, Json]) -> list[str]:
    """Options in the spec's order. One token each, so that a value may begin with a dash."""
    names = {name: name.replace("_", "-") for name in options}
    return [f"--{names[name]}" if value is True else f"--{names[name]}={value}" for name, value in options.items()]


def _program(job: JobSpec) -> list[str]:
    if job.train is not None:
        return ["-m", TRAINER]
    if job.module is not None:
        return ["-m", job.module, *job.args]
    return [job.script or "", *job.args]
