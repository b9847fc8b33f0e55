"""From an attempt in storage to what this node starts: the job, its environment, and each start of the gang."""

import errno
import importlib.util
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from pathlib import Path

from torchrelay.contract import environment, layout, records, settings
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.records import AttemptRecord, SpecRecord
from torchrelay.contract.storage import Storage
from torchrelay_launch.installed import torch_version
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.supervisor.first_failure import TORCH_MISSING
from torchrelay_launch.supervisor.gang import GangPlan
from torchrelay_launch.supervisor.options import TOKEN_VARIABLE, NodeOptions
from torchrelay_launch.torchrun import Placement, rank_environment, run_port, torchrun_argv

PORTS_TRIED = 50
# Kept out of the log also where `secrets:` does not name them, unless they are as short as a test server's password.
STORAGE_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY")
LIKE_A_SECRET = 16  # characters


@dataclass(frozen=True)
class Work:
    """What this node is to run, as the attempt's records say."""

    storage: Storage
    job: JobSpec
    run_id: str
    workdir: str

    @property
    def secrets(self) -> list[str]:
        """The values to keep out of the log."""
        named = [os.environ[name] for name in self.job.secrets if os.environ.get(name)]
        implied = [os.environ.get(name, "") for name in STORAGE_SECRETS]
        return named + [value for value in implied if len(value) >= LIKE_A_SECRET]


def load_work(storage: Storage, attempt: int) -> Work:
    """Read the records of an attempt. Raises: ConfigError if there is no such attempt; StorageError."""
    run = records.read_run(storage)
    record = records.read(storage, AttemptRecord, layout.attempt_file(attempt, "attempt"))
    spec = records.read(storage, SpecRecord, layout.attempt_file(attempt, "spec"))
    if record is None or spec is None:
        raise ConfigError(f"the run {storage.url} has no attempt {attempt}")
    try:
        job = settings.from_json(JobSpec, spec.spec)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(f"the spec of attempt {attempt} in {storage.url} is damaged: {error}") from error
    return Work(storage, job, run.run_id, os.environ.get(environment.WORKDIR) or record.workdir)


def check(job: JobSpec, workdir: str) -> None:
    """What would make every start fail. Raises: ConfigError."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(TORCH_MISSING)
    if not Path(workdir).is_dir():
        raise ConfigError(f"the job's folder {workdir} does not exist on {socket.gethostname()}")
    if job.script is not None and not (Path(workdir) / job.script).is_file():
        raise ConfigError(f"script: there is no file {job.script!r} in {workdir}")


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
            uses_runtime=job.train is not None,
            torchrun_restarts=job.restarts.torchrun > 0,
            grace_s=float(job.restarts.grace),
            watchdog_s=float(job.restarts.watchdog),
        )

    def port(self, restart: int) -> int:
        """A port of this machine for the rendezvous: the run's own, or the next that is free. Raises: ConfigError."""
        first = run_port(self.work.run_id, restart)
        for port in range(first, first + PORTS_TRIED):
            if is_free(port):
                return port
        raise ConfigError(f"all ports from {first} to {first + PORTS_TRIED - 1} are in use on {socket.gethostname()}")

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


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of this machine now."""
    return not any(_taken(family, port) for family in (socket.AF_INET, socket.AF_INET6))


def _taken(family: socket.AddressFamily, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(("", port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE  # anything else: this machine has no such addresses
    return False
