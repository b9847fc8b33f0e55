"""`torchrelay doctor --on slurm` and `--dry-run=server`, on the fake and, to look at nodes, on a real Slurm."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster


def examined(relay: Any, *words: str, code: int = 0) -> str:
    """What doctor prints of a job, its columns one blank apart."""
    (relay.folder / "job.yaml").write_text("name: j\nscript: train.py\nresources: {nodes: 2, time_limit: 30m}\n")
    (relay.folder / "train.py").write_text("print('hello')\n")
    return re.sub(" +", " ", relay("doctor", "--on", "slurm", *words, code=code))


@pytest.mark.timeout(180)
def test_a_job_is_examined_without_leaving_anything(fake_relay: Any) -> None:
    said = examined(fake_relay, "job.yaml")
    for line in (
        "ok slurmctld Slurmctld(primary) at fake is UP",
        "ok version slurm-wlm 22.05.8",
        "ok clock ",
        "ok accounting sacct answers",
        "ok partition main: 4 nodes (4 idle), at most 01:00:00 per job",
        "note KillWait preemption is REQUEUE; from SIGTERM to SIGKILL Slurm waits 5 s",
        "note requeue after a stop the run goes on as a new job, since a requeued one is held for 30 s; --probe",
        f"ok storage {fake_relay.storage} can be written to from here",
        "ok sbatch to start at 2026-11-21T10:25:52 using 2 processors",
    ):
        assert line in said
    assert list(fake_relay.storage.iterdir()) == []
    assert fake_relay.slurm("squeue").strip() == ""


@pytest.mark.timeout(180)
def test_what_is_wrong_ends_with_78(fake_relay: Any, tmp_path: Path) -> None:
    said = examined(fake_relay, "job.yaml", "--set", "slurm.partition=gpu", code=78)
    assert "WRONG partition slurm.partition: there is no partition 'gpu' here" in said
    said = examined(fake_relay, "job.yaml", "--set", "resources.time_limit=2h", code=78)
    assert "partition main allows at most 01:00:00" in said
    taken = tmp_path / "a file"
    taken.touch()
    found = json.loads(examined(fake_relay, "--json", "--storage", str(taken), code=78))
    assert [one["what"] for one in found if one["ok"] is False] == ["storage"]


@pytest.mark.e2e
@pytest.mark.timeout(300)
def test_the_nodes_are_examined_in_an_allocation(slurm: Cluster, slurm_relay: Any) -> None:
    """One node is made different by the job's own setup; everything else there is right."""
    differs = 'slurm.setup=["test $SLURM_NODEID = 0 || { cd /; ulimit -n 512; }"]'
    said = examined(slurm_relay, "job.yaml", "--probe", "--set", differs, code=78)
    wrong = [line for line in said.splitlines() if line.startswith("WRONG")]
    assert len(wrong) == 2, said  # a relative path to the program leads nowhere from there
    assert all("submit from a folder that all nodes share" in line for line in wrong)
    for line in (
        "ok storage written on every node, and seen by all others within",
        "ok torch ",
        "ok all-reduce gloo: 16 MiB summed over 2 nodes",
        "ok clocks ",
        "512 open files; put `ulimit -n 4096` into slurm.setup",
        "ok requeue the first node may submit jobs",
    ):
        assert line in said
    assert list(slurm_relay.storage.iterdir()) == []


@pytest.mark.e2e
@pytest.mark.timeout(180)
def test_slurm_is_asked_whether_it_would_take_a_job(slurm: Cluster, slurm_relay: Any) -> None:
    examined(slurm_relay, "job.yaml")
    rehearsed = ("submit", "job.yaml", "--on", "slurm", "--dry-run=server")
    said = slurm_relay(*rehearsed)
    assert "would be created: job j, to start at" in said
    assert "on nodes n[1-2] in partition main" in said
    assert "no node has these features" in slurm_relay(*rehearsed, "--set", "slurm.constraint=quantum", code=78)
    assert not slurm_relay.storage.exists() or list(slurm_relay.storage.iterdir()) == []
    assert slurm.output("squeue", "-h") == ""
