"""The tests' own Slurm does what the tests rest on."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurm_cluster import NODES, Cluster, _marked

pytestmark = pytest.mark.e2e


def test_a_job_runs_on_two_nodes_and_is_accounted_for(slurm: Cluster) -> None:
    job = slurm.output("sbatch", "--parsable", "--wait", "-N2", "-o", "/dev/null", "--wrap", "srun --label hostname")
    deadline = time.monotonic() + 20
    while not (lines := slurm.output("sacct", "-n", "-P", "-X", "-j", job, "-o", "State,NNodes")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert lines == "COMPLETED|2"


def test_a_killed_slurmd_takes_its_node_down_and_restore_brings_it_back(slurm: Cluster) -> None:
    slurm.kill_daemon("slurmd-n3")
    deadline = time.monotonic() + 30
    while not slurm.node_states()["n3"].startswith("down"):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    slurm.restore()
    assert slurm.node_states() == dict.fromkeys(NODES, "idle")


def test_nothing_is_left_when_the_tests_are_killed() -> None:
    """A second cluster in a process of its own, which is killed: all its daemons go with it."""
    code = "from slurm_cluster import Cluster; c = Cluster(); c.start(); print(c.folder, flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
    )
    assert process.stdout is not None
    folder = Path(process.stdout.readline().strip())
    conf = str(folder / "slurm.conf")
    assert len(_marked(conf)) >= len(NODES) + 4
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 20
    while _marked(conf) or folder.exists():
        assert time.monotonic() < deadline, _marked(conf)
        time.sleep(0.1)
