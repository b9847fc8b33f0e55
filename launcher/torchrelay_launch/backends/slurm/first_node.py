"""What `torchrelay doctor` runs on the first node of its allocation: finds where the nodes meet, then starts srun.

python -m torchrelay_launch.backends.slurm.first_node --run URL --script FILE -- srun ...
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

from torchrelay.contract import node_report
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.storage import open_storage
from torchrelay_launch.backends.slurm import client
from torchrelay_launch.backends.slurm.attempts import Start
from torchrelay_launch.backends.slurm.job import COORDINATOR, say
from torchrelay_launch.backends.slurm.meeting_point import meeting_point


def main(argv: list[str]) -> int:
    """Returns the exit code of srun."""
    parser = argparse.ArgumentParser(prog="torchrelay slurm first node", allow_abbrev=False)
    parser.add_argument("--run", required=True)
    parser.add_argument("--script", required=True)
    parser.add_argument("srun", nargs=argparse.REMAINDER)
    given = parser.parse_args(argv)
    try:
        start = Start.from_environment()
        found = json.dumps({"submit_error": _submit_error(given.script), "nodes": start.nodes}).encode()
        open_storage(given.run).create(node_report.FIRST_NODE, found)
        environment = {**os.environ, COORDINATOR: meeting_point(start.job_id, start.nodes)}
        return subprocess.run(given.srun[1:], env=environment, check=False).returncode
    except TorchrelayError as error:
        say(str(error))
        return int(error.exit_code)


def _submit_error(script: str) -> str:
    """Why a run could not go on as a new job from here, if it could not."""
    try:
        client.rehearse(Path(script).read_text())
    except (TorchrelayError, OSError) as error:
        return str(error)
    return ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
