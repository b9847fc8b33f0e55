"""Jobs for Kubernetes, from the smallest to one with every option, and what they become."""

import dataclasses
from typing import Any

from torchrelay.contract.units import Duration, NodeCount, Size
from torchrelay_launch.backends.base import RunRef
from torchrelay_launch.spec.models import JobSpec, Kubernetes, Resources, Restarts, Volume

RUN = RunRef("job-20261121-101500-a1b2", "s3://bucket/runs/job-20261121-101500-a1b2", 1, "/home/ada/project")
SMALL = JobSpec(name="small", script="train.py", code="live", kubernetes=Kubernetes(image="registry.example/train:1"))
LARGE_OPTIONS = Kubernetes(
    namespace="training",
    image="registry.example/train@sha256:" + "0" * 64,
    image_pull_policy="IfNotPresent",
    image_pull_secrets=["registry"],
    queue="team-a",
    queue_priority="urgent",
    devices={"rdma/hca": 2},
    ephemeral_storage=Size(20 * 2**30),
    shm_size=Size(8 * 2**30),
    node_selector={"pool": "gpu"},
    tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    affinity={
        "podAntiAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": [
                {"labelSelector": {"matchLabels": {"app": "noisy"}}, "topologyKey": "kubernetes.io/hostname"}
            ]
        }
    },
    topology_spread=[
        {
            "maxSkew": 1,
            "topologyKey": "topology.kubernetes.io/zone",
            "whenUnsatisfiable": "ScheduleAnyway",
            "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "torchrelay"}},
        }
    ],
    priority_class="high",
    host_network=True,
    service_account="trainer",
    run_as_user=0,
    capabilities=["IPC_LOCK"],
    volumes=[
        Volume(name="data", mount="/data", claim="training-data", read_only=True),
        Volume(name="data", mount="/extra", claim="training-data", sub_path="extra"),
        Volume(name="nvme", mount="/scratch", host_path="/mnt/nvme"),
        Volume(name="topology", mount="/etc/topology", config_map="nccl"),
        Volume(name="certificates", mount="/etc/certificates", secret="ca"),
        Volume(name="cache", mount="/cache", empty_dir=True),
        Volume(name="nas", mount="/nas", source={"nfs": {"server": "nas", "path": "/training"}}),
    ],
    env_from=[{"secretRef": {"name": "s3"}}],
    secret="credentials",
    labels={"team": "vision"},
    annotations={"example.com/owner": "ada"},
    active_deadline=Duration(86400),
    ttl=Duration(3600),
    backoff_limit=5,
)
LARGE = JobSpec(
    name="large",
    module="pkg.train",
    args=["--text", "$(HOME) stays"],
    resources=Resources(NodeCount(16, 16), gpus_per_node=8, cpus_per_proc=12, memory=Size(2**40)),
    restarts=Restarts(on_failure=2, grace=Duration(90.5)),
    storage_options={"endpoint_url": "http://minio:9000"},
    env={"NCCL_DEBUG": "INFO", "TEXT": "$(NOT_EXPANDED)"},
    secrets=["AWS_SECRET_ACCESS_KEY", "WANDB_API_KEY"],
    kubernetes=LARGE_OPTIONS,
)


def of_kind(job: JobSpec, kind: str) -> JobSpec:
    return with_options(job, kind=kind)


def with_options(job: JobSpec, **changes: Any) -> JobSpec:
    return dataclasses.replace(job, kubernetes=dataclasses.replace(job.kubernetes, **changes))


JOBS = {
    "small": SMALL,
    "large": LARGE,
    "jobset": of_kind(LARGE, "jobset"),
    "trainjob": of_kind(LARGE, "trainjob"),
}


def main_of(made: list[dict[str, Any]]) -> dict[str, Any]:
    return made[-1]


def pod_of(made: list[dict[str, Any]]) -> dict[str, Any]:
    pod = main_of(made)["spec"]["template"]["spec"]
    assert isinstance(pod, dict)
    return pod
