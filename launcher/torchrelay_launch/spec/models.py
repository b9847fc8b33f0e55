"""The models of a job spec, beside `train:` and `checkpoint:`, which the ranks share (torchrelay.contract.training)."""

from dataclasses import dataclass
from typing import Literal

from torchrelay.contract.settings import Json, Later, Limits, setting
from torchrelay.contract.training import AT_LEAST_0, AT_LEAST_1, Checkpoint, Train
from torchrelay.contract.units import Duration, NodeCount, Size
from torchrelay_launch.spec.models_kubernetes import Kubernetes, Volume

__all__ = ["JobSpec", "Kubernetes", "Resources", "Restarts", "Retries", "Slurm", "Sweep", "Volume"]

DNS_LABEL = Limits(
    pattern=r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?",
    pattern_says="lower-case letters, digits and '-', at most 40, starting and ending with a letter or digit",
)
PORT = Limits(minimum=1, maximum=65535)
ONE_LINE = Limits(pattern=r"[^\x00-\x1f\x7f]+", pattern_says="text of one line, not empty")


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
class Retries:
    """How often a run is submitted again, by what ended its attempt. Each is counted over the whole run."""

    time_limit: int = setting(100, doc="After the time limit.", limits=AT_LEAST_0)
    preemption: int = setting(100, doc="After a preemption, or a requeue by an administrator.", limits=AT_LEAST_0)
    node_failure: int = setting(5, doc="After a node or a supervisor was lost.", limits=AT_LEAST_0)


@dataclass(frozen=True)
class Slurm:
    """Options for Slurm; other backends do not use them."""

    partition: str | None = setting(
        None, doc="Partition to submit to, or several, separated by commas.", example="gpu", limits=ONE_LINE
    )
    account: str | None = setting(None, doc="Account to charge.", limits=ONE_LINE)
    qos: str | None = setting(None, doc="Quality of service.", limits=ONE_LINE)
    constraint: str | None = setting(
        None, doc="Features that nodes must have.", example="a100&infiniband", limits=ONE_LINE
    )
    gres: str | None = setting(
        None,
        doc="Generic resources per node, where `resources.gpus_per_node` does not say enough.",
        example="gpu:a100:4",
        limits=ONE_LINE,
    )
    reservation: str | None = setting(None, doc="Reservation to use.", limits=ONE_LINE)
    dependency: str | None = setting(
        None, doc="What the first attempt waits for.", example="afterok:1234", limits=ONE_LINE
    )
    exclude: str | None = setting(None, doc="Nodes not to use.", example="node[17,23]", limits=ONE_LINE)
    mail_user: str | None = setting(None, doc="Who gets mail.", limits=ONE_LINE)
    mail_type: str | None = setting(None, doc="What to send mail about.", example="END,FAIL", limits=ONE_LINE)
    comment: str | None = setting(None, doc="Comment in the job's record.", limits=ONE_LINE)
    requeue: Literal["auto", "chain", "requeue", "never"] = setting(
        "auto",
        doc="How a run goes on after its attempt was stopped: as a new job (chain), as the same job again (requeue), "
        "as whichever came back sooner in this run, a new job at first (auto), or not by itself (never).",
    )
    retries: Retries = setting(Retries, doc="How often a run is submitted again.")
    join: Duration = setting(
        lambda: Duration(300), doc="How long the first node waits for all others, from the start of the job."
    )
    setup: list[str] = setting(
        list, doc="Shell lines that run on every node before the job.", example='["module load cuda"]'
    )
    container_image: str | None = setting(
        None, doc="Image to run the nodes' supervisors in, with pyxis.", example="nvcr.io#nvidia/pytorch:25.01-py3"
    )
    container_mounts: str | None = setting(None, doc="What pyxis mounts into the container.", limits=ONE_LINE)
    apptainer: str | None = setting(
        None, doc="Image file to run the nodes' supervisors in, with apptainer.", example="/images/train.sif"
    )
    python: str | None = setting(
        None,
        doc="Python of the nodes; without it the one that submits, or `python3` in a container.",
        example="/shared/venv/bin/python",
        limits=ONE_LINE,
    )
    array: bool = setting(
        True,
        doc="Submit a `sweep:` as one array job, where its points ask Slurm for the same; false: a job for each point.",
    )
    template: str | None = setting(
        None, doc="A batch script of your own in place of slurm/train.sbatch.", example="site/train.sbatch"
    )
    extra: dict[str, Json] = setting(
        dict, doc="Further sbatch options by their long names.", example="{nice: 100, exclusive: true}"
    )


@dataclass(frozen=True)
class Sweep:
    """Several runs from one spec: one for each point, which sets some of its fields."""

    grid: dict[str, list[Later]] = setting(
        dict,
        doc="Dotted fields, each with a list of values; every combination of them is a point.",
        example="{train.optimizer.args.lr: [0.1, 0.01], train.seed: [1, 2, 3]}",
    )
    points: list[dict[str, Later]] = setting(
        list,
        doc="Points one by one, as mappings of dotted fields to values; with a `grid`, each in all its combinations.",
        example="[{train.precision: fp32}, {train.precision: bf16, train.global_batch: 64}]",
        key="list",
    )
    at_once: int | None = setting(
        None,
        doc="Most runs at the same time, where they are an array job of Slurm's; this machine always takes one by one.",
        limits=AT_LEAST_1,
    )


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
    code: Literal["snapshot", "live"] = setting(
        "snapshot",
        doc="What a cluster runs: the code as it was when submitted, or as it is when it starts: on Slurm the files of "
        "the folder, on Kubernetes those of the image.",
    )
    resources: Resources = setting(Resources, doc="What one attempt runs on.")
    process_group: Literal["auto", "gloo", "nccl"] = setting(
        "auto", doc="torch.distributed backend; auto is nccl with GPUs and gloo without."
    )
    storage: str | None = setting(
        None,
        doc="Folder or URL under which runs are kept; --storage and TORCHRELAY_STORAGE come first, ./runs last.",
        example="runs",
    )
    storage_options: dict[str, Json] = setting(
        dict,
        doc="How an object storage is reached: limits such as retry_s, and options of its fsspec driver; no secrets.",
        example="{endpoint_url: 'http://minio:9000', retry_s: 120}",
    )
    checkpoint: Checkpoint = setting(Checkpoint, doc="When to save, and what to keep.")
    restarts: Restarts = setting(Restarts, doc="What to do when something fails.")
    torchrun: dict[str, Json] = setting(
        dict,
        doc="Further torchrun options by their long names, passed through; `true` for one without a value.",
        example="{numa-binding: node, monitor-interval: 0.5}",
    )
    env: dict[str, str] = setting(dict, doc="Environment variables of every rank.", example='{OMP_NUM_THREADS: "1"}')
    secrets: list[str] = setting(
        list,
        doc="Names of environment variables to pass from the submitting shell; values are never written down.",
        example="[AWS_SECRET_ACCESS_KEY]",
    )
    slurm: Slurm = setting(Slurm, doc="Options for Slurm.")
    kubernetes: Kubernetes = setting(Kubernetes, doc="Options for Kubernetes.")
    sweep: Sweep | None = setting(None, doc="Start several runs, over values of any other fields.")
