"""What arrives on the nodes, and what does not get that far."""

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from slurm_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

HARD = {
    "A_BLANK": "a b",
    "QUOTES": 'it\'s "quoted"',
    "LINES": "one\ntwo\n",
    "DOLLAR": "$HOME `id` $(id) \\ %j",
    "COMMAS": "a=1,b=2",
    "EMPTY": "",
    "UMLAUT": "grün \udcff",
}
SECRET = "hunter2-never-shown"


def everything_readable(folder: Path) -> str:
    """The text of all files of a run that others than the owner can read."""
    files = [file for file in folder.rglob("*") if file.is_file() and stat.S_IMODE(file.stat().st_mode) & 0o044]
    return "\n".join(file.read_text(errors="replace") for file in files)


def recorded_environment(slurm: Cluster) -> str:
    """What slurmctld has written down of the environments of the jobs that it knows."""
    files = (slurm.folder / "ctld").glob("hash.*/job.*/environment")
    return "\n".join(file.read_bytes().replace(b"\0", b"\n").decode(errors="replace") for file in files)


def test_values_arrive_unharmed_and_secrets_stay_secret(slurm: Cluster, slurm_relay: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    slurm_relay._environment |= HARD | {"MY_SECRET": SECRET, "PRETEND_NOTES": str(notes), "SBATCH_COMMENT": "not mine"}
    comment = 'it\'s a "comment", 100 % $HOME # \\'
    setup = 'slurm.setup=["SETUP_SAYS=\\"in $SLURM_NODEID\\"", "export SETUP_SAYS"]'
    slurm_relay.pretend(15, "secrets=[MY_SECRET]", setup, f"slurm.comment={json.dumps(comment)}")
    slurm_relay.wait_for_step(1)
    record = slurm.output("scontrol", "show", "job", slurm_relay.job_id())
    script = slurm.output("scontrol", "write", "batch_script", slurm_relay.job_id(), "-")
    recorded = recorded_environment(slurm)
    (environment_file,) = slurm_relay.run().glob("slurm/*.env")
    assert stat.S_IMODE(environment_file.stat().st_mode) == 0o600
    slurm_relay.wait_for_end()
    slurm_relay.wait_until("the environment is forgotten", lambda: not environment_file.exists())
    for node in (0, 1):
        arrived = json.loads((notes / f"a1-n{node}.json").read_text())
        environment = arrived["environment"]
        assert {name: environment.get(name) for name in HARD} == HARD
        assert environment["MY_SECRET"] == SECRET
        assert environment["SETUP_SAYS"] == f"in {node}"
        assert arrived["cwd"] == str(slurm_relay.folder)
        assert SECRET not in " ".join(arrived["argv"])
    assert f"Comment={comment}" in record
    assert "PATH=" in recorded  # which is harmless, and shows that this is the place
    for text in (record, recorded, script, everything_readable(slurm_relay.run())):
        assert SECRET not in text


def test_what_is_submitted_is_what_render_shows(slurm: Cluster, slurm_relay: Any) -> None:
    slurm_relay.pretend(1)
    sent = slurm.output("scontrol", "write", "batch_script", slurm_relay.job_id(), "-")
    (submitted,) = slurm_relay.run().glob("slurm/*.sbatch")
    python = slurm_relay.folder / "python"
    rendered = slurm_relay("render", "pretend.yaml", "--on", "slurm", "--set", f"slurm.python={python}")
    shown = rendered.split("\n\n# submit\n")[0].partition("a0001.sbatch\n")[2].replace("RUN_ID", slurm_relay.run().name)
    assert sent.strip() == submitted.read_text().strip() == shown.strip()
    slurm_relay.wait_for_end()


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["slurm.partition=mainn"], "there is no partition 'mainn' here; did you mean `main`?"),
        (["slurm.partition=short", "resources.time_limit=10m"], "partition short allows at most 00:01:00"),
        (["slurm.extra={constraint: quantum}"], "slurm.constraint: no node has these features"),
        (["slurm.extra={frobnicate: 1}"], "slurm.extra: sbatch does not know one of these options"),
        (["resources.nodes=9"], "partition main has only 3 nodes, 9 are asked for"),
        (["resources.memory=900GiB"], "no set of nodes there can ever hold this job"),
        (["slurm.gres=gpu:99"], "no"),
        (["slurm.extra={nodes: 4}"], "resources.nodes"),
        (["slurm.partitio=main"], "did you mean `partition`?"),
        (["secrets=[NOT_SET_ANYWHERE]"], "NOT_SET_ANYWHERE"),
    ],
)
def test_what_slurm_would_refuse_or_never_start_is_a_mistake_in_the_spec(
    slurm_relay: Any, sets: list[str], says: str
) -> None:
    output = slurm_relay.refused(78, *sets)
    assert says in output
    assert "Traceback" not in output


def test_no_slurmctld(slurm: Cluster, slurm_relay: Any) -> None:
    slurm.kill_daemon("slurmctld")
    output = slurm_relay.refused(74)
    assert "slurmctld does not answer" in output


def test_no_munge(slurm: Cluster, slurm_relay: Any) -> None:
    (slurm.folder / "munge.socket").rename(slurm.folder / "munge.away")
    try:
        output = slurm_relay.refused(74)
    finally:
        (slurm.folder / "munge.away").rename(slurm.folder / "munge.socket")
    assert "munge does not work on this machine" in output


def test_a_machine_without_slurm(slurm_relay: Any) -> None:
    slurm_relay._environment["PATH"] = "/nowhere"
    assert "so it cannot reach Slurm" in slurm_relay.refused(78)
