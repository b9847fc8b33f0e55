"""What the command line and the environment of a pod say."""

import argparse
import os
from dataclasses import dataclass

from torchrelay.contract.errors import ConfigError


@dataclass(frozen=True)
class PodOptions:
    """What every pod of a job is told, and which of them this is."""

    run: str
    attempt: int  # that the job was submitted for
    job: str
    nodes: int
    coordinator: str  # NAME:PORT of the first pod
    join_s: float
    workdir: str
    code: str | None
    node: int

    @property
    def name(self) -> str:
        return self.coordinator.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.coordinator.rpartition(":")[2])


def parse(argv: list[str]) -> PodOptions:
    """Raises: ConfigError outside a pod of an Indexed Job."""
    parser = argparse.ArgumentParser(prog="torchrelay pod", allow_abbrev=False)
    parser.add_argument("--run", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--coordinator", required=True)
    parser.add_argument("--join", dest="join_s", type=float, required=True)
    parser.add_argument("--workdir", default=".")
    parser.add_argument("--code")
    given = vars(parser.parse_args(argv))
    index = os.environ.get("JOB_COMPLETION_INDEX", "")
    if not index.isdigit():
        raise ConfigError("JOB_COMPLETION_INDEX is not set: this is started in a pod of an Indexed Job")
    return PodOptions(**given, node=int(index))
