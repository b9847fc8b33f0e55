"""What `torchrelay doctor --on slurm` concludes from what the nodes said, and from the machine that it runs on."""

import dataclasses
from pathlib import Path

import pytest

from torchrelay.contract.node_report import DONE, NodeReport
from torchrelay_launch.backends.base import Finding
from torchrelay_launch.backends.slurm import doctor, node_findings
from torchrelay_launch.spec.models import JobSpec

JOB = JobSpec(name="j", script="train.py")
GOOD = NodeReport(
    node=0,
    host="n1",
    stage=DONE,
    python="3.11.7",
    torchrelay="0.1.0",
    workdir="/shared",
    program="aa",
    seen_after_s=0.2,
    open_files=65536,
    locked_bytes=-1,
    shared_bytes=8 << 30,
    torch="2.14.1",
    process_group="gloo",
    reduce_s=0.03,
    met_at=1000.0,
)


def findings(second: NodeReport | None, first: NodeReport = GOOD, submit_error: str = "") -> list[Finding]:
    said: dict[str, object] = {"nodes": ["n1", "n2"], "submit_error": submit_error}
    return list(node_findings.conclude({0: first, 1: second}, said, JOB))


def other(**changed: object) -> NodeReport:
    """The second node, which found something else than the first."""
    return dataclasses.replace(GOOD, node=1, host="n2", **changed)  # type: ignore[arg-type]


def test_nodes_that_are_alike_are_right_in_everything() -> None:
    found = findings(other(met_at=1000.2))
    assert {one.ok for one in found} == {True}
    assert "16 MiB summed over 2 nodes in 30 ms" in "\n".join(one.says for one in found)


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (None, "nothing came from n2"),
        (other(stage="torch"), "node 1 (n2) got as far as torch, and died or hung there"),
        (other(missing_nodes=[0]), "node 1 (n2) does not see what node 0 wrote"),
        (other(python="3.12.1"), "python differs or is missing (0 (n1): 3.11.7, 1 (n2): 3.12.1)"),
        (other(program="cannot be read: Permission denied"), "train.py differs or is missing"),
        (other(torch="", torch_error="ModuleNotFoundError: No module named 'torch'"), "cannot be imported on node 1"),
        (other(torch="2.13.0"), "install one version"),
        (other(gpu_errors=["GPU 3 has 7 uncorrected memory errors"]), "slurm.exclude"),
        (other(reduce_error="DistBackendError: timed out", reduce_s=None), "set GLOO_SOCKET_IFNAME in `env:`"),
        (other(met_at=1031.0), "of 1 (n2) and 0 (n1) are 31.0 s apart"),
    ],
)
def test_what_is_wrong_says_on_which_node_and_what_to_do(second: NodeReport | None, says: str) -> None:
    wrong = [one.says for one in findings(second) if one.ok is False]
    assert len(wrong) == 1
    assert says in wrong[0]


@pytest.mark.parametrize(
    ("second", "says"),
    [
        (other(met_at=1001.0), "chrony"),
        (other(open_files=1024), "put `ulimit -n 4096` into slurm.setup"),
        (other(shared_bytes=64 << 20), "64 MiB free in /dev/shm"),
        (other(seen_after_s=9.0), "actimeo"),
        (other(gpus=["H100"], locked_bytes=65536), "ulimit -l unlimited"),
    ],
)
def test_what_may_hurt_is_noted(second: NodeReport, says: str) -> None:
    found = findings(second)
    assert not [one for one in found if one.ok is False]
    assert any(says in one.says for one in found if one.ok is None)


def test_a_program_that_no_node_reads_is_wrong_even_though_all_agree() -> None:
    unread = "cannot be read: No such file or directory"
    found = findings(other(program=unread), dataclasses.replace(GOOD, program=unread))
    assert [one.ok for one in found if "train.py" in one.says] == [False]


def test_nodes_that_may_not_submit_are_noted() -> None:
    (last,) = [one for one in findings(other(), submit_error="no sbatch") if one.what == "requeue"]
    assert (last.ok, "no sbatch" in last.says) == (None, True)


def test_the_file_system_of_a_folder_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\nserver:/x /shared nfs4 rw 0 0\nserver:/y /sha\\040red lustre rw 0 0\n")
    assert doctor.file_system_of(Path("/shared/runs"), str(mounts)) == "nfs4"
    assert doctor.file_system_of(Path("/sharedness"), str(mounts)) == "ext4"
    assert doctor.file_system_of(Path("/sha red/x"), str(mounts)) == "lustre"
    assert doctor.file_system_of(Path("/x"), str(tmp_path / "none")) == ""
