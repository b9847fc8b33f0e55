"""The models of a job spec, beside `train:` and `checkpoint:`, which the ranks share (torchrelay.contract.training)."""

from dataclasses import dataclass
from typing import Literal

from torchrelay.contract.settings import Json, Limits, setting
from torchrelay.contract.training import AT_LEAST_0, AT_LEAST_1, Checkpoint, Train
from torchrelay.contract.units import Duration, NodeCount, Size

DNS_LABEL = Limits(
    pattern=r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?",
    pattern_says="lower-case letters, digits and '-', at most 40, starting and ending with a letter or digit",
)
PORT = Limits(minimum=1, maximum=65535)


@dataclass(frozen=True)
class Resources:
    """What one attempt runs on."""

    nodes: NodeCount = setting(
        lambda: NodeCount(1, 1), doc="Number of nodes, or a range for an elastic job.", example="2..8"
    )
    procs_per_node: int | None = setting(
        None, doc="Processes (ranks) per node; without it one per GPU, or 1.", limits=AT_LEAST_1
    )
    gpus_per_node: int = setting(0, doc="GPUs per node; 0 trains on the CPU.", limits=AT_LEAST_0)
    cpus_per_proc: int | None = setting(
        None, doc="CPU cores per process; also sets OMP_NUM_THREADS.", limits=AT_LEAST_1
    )
    memory: Size | None = setting(None, doc="Memory per node.", example="16GiB")
    time_limit: Duration | None = setting(
        None,
        doc="Longest time that one attempt may take; it is stopped cleanly `restarts.grace` before.",
        example="12h",
    )

    @property
    def world_procs_per_node(self) -> int:
        """Ranks on each node."""
        return self.procs_per_node or max(1, self.gpus_per_node)


@dataclass(frozen=True)
class Restarts:
    """What to do when something fails, and how long a stop may take."""

    on_failure: int = setting(
        3,
        doc="How often the ranks are started again after failures; refills when a new checkpoint is committed.",
        limits=AT_LEAST_0,
    )
    grace: Duration = setting(
        lambda: Duration(120), doc="Time from the request to stop until processes are killed, for the last save."
    )
    watchdog: Duration = setting(
        lambda: Duration(1800),
        doc="Without a step for so long, the stacks of all ranks are dumped and the ranks are started again.",
    )
    torchrun: int = setting(0, doc="torchrun's own --max-restarts, for scripts that count on it.", limits=AT_LEAST_0)


@dataclass(frozen=True)
class Slurm:
    """Options for Slurm; other backends do not use them."""

    partition: str | None = setting(None, doc="Partition to submit to.", example="gpu")
    account: str | None = setting(None, doc="Account to charge.")
    setup: list[str] = setting(
        list, doc="Shell lines that run on every node before the job.", example='["module load cuda"]'
    )
    extra: dict[str, Json] = setting(
        dict, doc="Further sbatch options by their long names.", example="{constraint: ib}"
    )


@dataclass(frozen=True)
class Kubernetes:
    """Options for Kubernetes; other backends do not use them."""

    namespace: str | None = setting(None, doc="Namespace; without it that of the current context.")
    image: str | None = setting(None, doc="Container image that holds torchrelay and the job's needs.")
    queue: str | None = setting(None, doc="Kueue queue to wait in.")


@dataclass(frozen=True)
class JobSpec:
    """One training job: what to run, on what, and how to survive."""

    name: str = setting(doc="Name of the job; runs are named after it.", example="mnist-mlp", limits=DNS_LABEL)
    train: Train | None = setting(None, doc="Train with the built-in trainer.")
    script: str | None = setting(None, doc="Or run this Python file under torchrun.", example="train.py")
    module: str | None = setting(
        None, doc="Or run this module under torchrun, as with `python -m`.", example="pkg.train"
    )
    args: list[str] = setting(list, doc="Arguments of the script or module.", example='["--lr", "0.1"]')
    backend: Literal["local", "slurm", "kubernetes"] = setting("local", doc="Where to run unless --on says otherwise.")
    resources: Resources = setting(Resources, doc="What one attempt runs on.")
    process_group: Literal["auto", "gloo", "nccl"] = setting(
        "auto", doc="torch.distributed backend; auto is nccl with GPUs and gloo without."
    )
    storage: str | None = setting(
        None,
        doc="Folder or URL under which runs are kept; --storage and TORCHRELAY_STORAGE come first, ./runs last.",
        example="runs",
    )
    checkpoint: Checkpoint = setting(Checkpoint, doc="When to save, and what to keep.")
    restarts: Restarts = setting(Restarts, doc="What to do when something fails.")
    torchrun: dict[str, Json] = setting(
        dict,
        doc="Further torchrun options by their long names, passed through.",
        example="{log-line-prefix-template: '[r${rank}] '}",
    )
    env: dict[str, str] = setting(dict, doc="Environment variables of every rank.", example='{OMP_NUM_THREADS: "1"}')
    secrets: list[str] = setting(
        list,
        doc="Names of environment variables to pass from the submitting shell; values are never written down.",
        example="[AWS_SECRET_ACCESS_KEY]",
    )
    slurm: Slurm = setting(Slurm, doc="Options for Slurm.")
    kubernetes: Kubernetes = setting(Kubernetes, doc="Options for Kubernetes.")
