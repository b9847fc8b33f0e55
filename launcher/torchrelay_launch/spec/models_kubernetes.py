"""The model of `kubernetes:` in a job spec."""

from dataclasses import dataclass
from typing import Literal

from torchrelay.contract.settings import Json, Limits, setting
from torchrelay.contract.training import AT_LEAST_0
from torchrelay.contract.units import Duration, Size

NAME = Limits(
    pattern=r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?",
    pattern_says="a name of Kubernetes: lower-case letters, digits, '-' and '.', at most 253",
)
LABEL = Limits(
    pattern=r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?",
    pattern_says="lower-case letters, digits and '-', at most 63, starting and ending with a letter or digit",
)
_DOMAIN = r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?/"
_PLAIN_NAME = r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_KEY = "a name: letters, digits, '-', '_' and '.', at most 63, and a domain and '/' before it if you like"
LABELS = Limits(
    pattern=r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?",
    pattern_says="a value of a label: letters, digits, '-', '_' and '.', at most 63",
    keys=f"({_DOMAIN})?{_PLAIN_NAME}",
    keys_say=_KEY,
)
# The API takes capitals in the domain of an annotation.
ANNOTATIONS = Limits(keys=f"({_DOMAIN.replace('a-z', 'a-zA-Z')})?{_PLAIN_NAME}", keys_say=_KEY)
RESOURCE = Limits(pattern=_DOMAIN + _PLAIN_NAME, pattern_says="a resource such as nvidia.com/gpu")
DEVICES = Limits(minimum=1, keys=_DOMAIN + _PLAIN_NAME, keys_say="a resource such as rdma/hca")
CAPABILITY = Limits(pattern=r"[A-Z][A-Z0-9_]*", pattern_says="a capability's name in capitals, without CAP_")
MOUNT = Limits(pattern=r"/[^:]*", pattern_says="an absolute path without ':'")


@dataclass(frozen=True)
class Volume:
    """A volume of every pod, and where it is mounted. Exactly one of the sources is given."""

    name: str = setting(doc="Name of the volume.", example="data", limits=LABEL)
    mount: str = setting(doc="Where it is mounted.", example="/data", limits=MOUNT)
    claim: str | None = setting(None, doc="From this PersistentVolumeClaim.", limits=NAME)
    host_path: str | None = setting(None, doc="Or this path of the node.", example="/mnt/nvme", limits=MOUNT)
    config_map: str | None = setting(None, doc="Or this ConfigMap.", limits=NAME)
    secret: str | None = setting(None, doc="Or this Secret, as files.", limits=NAME)
    empty_dir: bool = setting(False, doc="Or an empty folder that goes with the pod.")
    source: dict[str, Json] | None = setting(
        None, doc="Or any other source, as in the API.", example="{nfs: {server: nas, path: /data}}"
    )
    read_only: bool = setting(False, doc="Whether it is mounted read-only.")
    sub_path: str | None = setting(None, doc="A path within the volume to mount.")


@dataclass(frozen=True)
class Kubernetes:
    """Options for Kubernetes; other backends do not use them."""

    context: str | None = setting(None, doc="Context of the kubeconfig; without it the current one.")
    namespace: str | None = setting(None, doc="Namespace; without it that of the context.", limits=LABEL)
    kind: Literal["job", "jobset", "trainjob"] = setting(
        "job", doc="What a job becomes: a batch/v1 Job, a JobSet, or a Kubeflow TrainJob."
    )
    image: str | None = setting(
        None, doc="Container image that holds torchrelay and the job's needs.", example="registry.example/train:1"
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = setting(
        None, doc="When the image is pulled; without it as the API decides by the tag."
    )
    image_pull_secrets: list[str] = setting(
        list, doc="Secrets to pull the image with.", example="[registry]", limits=NAME
    )
    python: str = setting("python3", doc="Python in the image.", example="/opt/venv/bin/python")
    workdir: str = setting(
        "/workspace",
        doc="Folder in the pod that relative paths start from, and where a snapshot of the code lies; see `code`.",
        limits=MOUNT,
    )
    queue: str | None = setting(
        None, doc="Kueue's LocalQueue to wait in; the job is submitted suspended.", limits=LABEL
    )
    queue_priority: str | None = setting(None, doc="Kueue's WorkloadPriorityClass.", limits=NAME)
    runtime: str = setting("torch-distributed", doc="The runtime of a TrainJob.", limits=NAME)
    runtime_kind: Literal["ClusterTrainingRuntime", "TrainingRuntime"] = setting(
        "ClusterTrainingRuntime", doc="Whether that runtime is the cluster's or the namespace's."
    )
    gpu_resource: str = setting("nvidia.com/gpu", doc="Resource that stands for a GPU.", limits=RESOURCE)
    devices: dict[str, int] = setting(
        dict, doc="Further devices per pod, by resource name.", example='{"rdma/hca": 1}', limits=DEVICES
    )
    ephemeral_storage: Size | None = setting(None, doc="Space on the node's disk per pod.", example="20GiB")
    shm_size: Size | None = setting(
        None, doc="Size of /dev/shm, whose use counts as memory; without it up to the pod's memory.", example="8GiB"
    )
    node_selector: dict[str, str] = setting(
        dict, doc="Labels that nodes must have.", example="{pool: gpu}", limits=LABELS
    )
    tolerations: list[dict[str, Json]] = setting(
        list, doc="Taints to tolerate, as in the API.", example="[{key: nvidia.com/gpu, operator: Exists}]"
    )
    affinity: dict[str, Json] = setting(dict, doc="Affinity, as in the API.")
    topology_spread: list[dict[str, Json]] = setting(list, doc="topologySpreadConstraints, as in the API.")
    priority_class: str | None = setting(None, doc="PriorityClass of the pods.", limits=NAME)
    host_network: bool = setting(False, doc="Use the node's network, for RDMA without a device plugin.")
    service_account: str | None = setting(None, doc="ServiceAccount of the pods; they get no token of it.", limits=NAME)
    run_as_user: int | None = setting(
        None, doc="Numeric user of the pods; without it 10001. 0 is root.", limits=AT_LEAST_0
    )
    capabilities: list[str] = setting(
        list,
        doc="Linux capabilities to add; all others are dropped. In a container only root has them in force: "
        "`run_as_user: 0`.",
        example="[IPC_LOCK]",
        limits=CAPABILITY,
    )
    volumes: list[Volume] = setting(
        list, doc="Volumes of every pod.", example="[{name: data, mount: /data, claim: training-data}]"
    )
    env_from: list[dict[str, Json]] = setting(
        list,
        doc="Secrets or ConfigMaps whose keys become variables, as in the API.",
        example="[{secretRef: {name: s3}}]",
    )
    secret: str | None = setting(
        None, doc="A Secret that exists and holds the variables of `secrets:` under their names.", limits=NAME
    )
    create_secret: bool = setting(
        False, doc="Make a Secret with the values that `secrets:` have in the submitting shell; it goes with the job."
    )
    labels: dict[str, str] = setting(
        dict, doc="Further labels of all objects.", example="{team: vision}", limits=LABELS
    )
    annotations: dict[str, str] = setting(dict, doc="Further annotations of all objects.", limits=ANNOTATIONS)
    active_deadline: Duration | None = setting(
        None, doc="Longest time for all attempts of one submission, after which Kubernetes fails the job."
    )
    ttl: Duration | None = setting(
        lambda: Duration(86400), doc="When a finished job's objects are removed; the run stays in its storage."
    )
    backoff_limit: int | None = setting(
        None,
        doc="How often each pod may fail before Kubernetes fails the job, and how often a JobSet starts all pods "
        "again; without it `restarts.on_failure`. Disruptions and stops do not count.",
        limits=AT_LEAST_0,
    )
    join: Duration = setting(
        lambda: Duration(1200),
        doc="How long pods wait for each other, and for a pod that is started again, before which Kubernetes waits "
        "for up to 10 minutes.",
    )
    port: int = setting(29400, doc="Port of the first pod where the others meet.", limits=Limits(1024, 65535))
    patch: list[dict[str, Json]] = setting(
        list,
        doc="Strategic merge patches of the objects; each goes to the objects of its `kind`, or to the job.",
        example="[{kind: Job, spec: {template: {spec: {hostIPC: true}}}}]",
    )
