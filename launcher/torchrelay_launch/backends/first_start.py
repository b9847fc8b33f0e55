"""What a node's supervisor starts first, as every backend's `render` shows it."""

from collections.abc import Mapping

from torchrelay.contract import environment
from torchrelay_launch.backends.base import HIDDEN, Command, RunRef
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.torchrun import Placement, rank_environment, run_port, torchrun_argv

SCRATCH = "SCRATCH"  # stands for a folder that each node makes when it starts


def first_torchrun(
    job: JobSpec, run: RunRef, node: int, master_addr: str, python: str, more: Mapping[str, str] | None = None
) -> Command:
    """The torchrun of a node. `more`: variables that it gets beside those of every backend."""
    from torchrelay_launch.installed import torch_version

    placement = Placement(
        node=node,
        nodes=job.resources.nodes.minimum,
        master_addr=master_addr,
        master_port=run_port(run.run_id, 0),
        run_id=run.run_id,
        restart=0,
        log_dir=f"{SCRATCH}/logs",
        torch_version=torch_version(),
        python=python,
    )
    mine = {
        environment.RUN: run.url,
        environment.ATTEMPT: str(run.attempt),
        environment.RESTART: "0",
        environment.NODE: str(node),
        environment.REPORTS: f"{SCRATCH}/reports",
    }
    variables = rank_environment(job) | dict.fromkeys(job.secrets, HIDDEN) | mine | dict(more or {})
    return Command(f"node {node}: torchrun, started by the supervisor", tuple(torchrun_argv(job, placement)), variables)
