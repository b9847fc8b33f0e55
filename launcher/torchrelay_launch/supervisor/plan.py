"""What this node starts: torchrun's arguments, the ranks' environment and their folders, for each start of the gang."""

import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from torchrelay.contract import environment
from torchrelay.contract.errors import ConfigError
from torchrelay_launch.installed import torch_version
from torchrelay_launch.ports import first_free
from torchrelay_launch.supervisor.gang import GangPlan
from torchrelay_launch.supervisor.options import TOKEN_VARIABLE, NodeOptions
from torchrelay_launch.supervisor.store_host import StoreHost
from torchrelay_launch.supervisor.work import Work
from torchrelay_launch.torchrun import Placement, rank_environment, run_port, torchrun_argv

PORTS_TRIED = 50


@dataclass(frozen=True)
class GangPlanner:
    """Makes the plan of every start."""

    work: Work
    options: NodeOptions
    scratch: Path  # on this node

    def plan(self, restart: int, master_addr: str, master_port: int) -> GangPlan:
        """The plan of a start, with fresh folders; those of the last start are removed."""
        job, node = self.work.job, self.options.node
        folder = self.scratch / f"start-{restart:03d}"
        for old in self.scratch.glob("start-*"):
            shutil.rmtree(old, ignore_errors=True)
        reports, logs = folder / "reports", folder / "logs"
        reports.mkdir(parents=True)
        logs.mkdir()
        ranks = job.resources.world_procs_per_node
        chosen_by_torchrun = job.resources.nodes.elastic or (job.restarts.torchrun > 0 and self.options.nodes > 1)
        return GangPlan(
            node=node,
            argv=torchrun_argv(job, self._placement(restart, master_addr, master_port, logs)),
            env=self._environment(restart, reports),
            workdir=self.work.workdir,
            reports=reports,
            logs=logs,
            ranks=ranks,
            first_rank=None if chosen_by_torchrun else node * ranks,
            store_host=StoreHost(master_addr, master_port) if node else None,
            uses_runtime=job.train is not None,
            torchrun_restarts=job.restarts.torchrun > 0,
            grace_s=float(job.restarts.grace),
            watchdog_s=float(job.restarts.watchdog),
        )

    def port(self, restart: int) -> int:
        """A port of this machine for the rendezvous: the run's own, or the next that is free. Raises: ConfigError."""
        first = run_port(self.work.run_id, restart)
        port = first_free(range(first, first + PORTS_TRIED))
        if port is None:
            last = first + PORTS_TRIED - 1
            raise ConfigError(f"all ports from {first} to {last} are in use on {socket.gethostname()}")
        return port

    def _placement(self, restart: int, master_addr: str, master_port: int, logs: Path) -> Placement:
        return Placement(
            node=self.options.node,
            nodes=self.options.nodes,
            master_addr=master_addr,
            master_port=master_port,
            run_id=self.work.run_id,
            restart=restart,
            log_dir=str(logs),
            torch_version=torch_version(),
            python=sys.executable,
        )

    def _environment(self, restart: int, reports: Path) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name != TOKEN_VARIABLE}
        return {
            **inherited,
            **rank_environment(self.work.job),
            environment.RUN: self.work.storage.url,
            environment.ATTEMPT: str(self.options.attempt),
            environment.RESTART: str(restart),
            environment.NODE: str(self.options.node),
            environment.REPORTS: str(reports),
        }
