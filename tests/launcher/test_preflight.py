from dataclasses import replace
from pathlib import Path

import pytest

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.units import NodeCount, Size
from torchrelay_launch import preflight
from torchrelay_launch.preflight import check_local, count_gpus
from torchrelay_launch.spec.models import JobSpec, Kubernetes, Resources, Slurm

JOB = JobSpec(name="job", module="pkg.train")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 4 cores, 8 GiB and no GPUs."""
    (tmp_path / "dev").mkdir()
    (tmp_path / "meminfo").write_text(f"MemTotal:       {8 * 2**20} kB\nMemFree: 1 kB\n")
    monkeypatch.setattr(preflight, "_DEVICES", tmp_path / "dev")
    monkeypatch.setattr(preflight, "_PROC_GPUS", tmp_path / "gpus")
    monkeypatch.setattr(preflight, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(preflight, "cores", lambda: 4)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def gpus(machine: Path, devices: int, driver: int) -> None:
    for index in range(devices):
        (machine / "dev" / f"nvidia{index}").touch()
    (machine / "dev" / "nvidiactl").touch()
    for index in range(driver):
        (machine / "gpus" / f"0000:0{index}").mkdir(parents=True)


def on(nodes: int = 1, **resources: int) -> JobSpec:
    return replace(JOB, resources=Resources(nodes=NodeCount(nodes, nodes), **resources))


def refusal(job: JobSpec) -> str:
    with pytest.raises(ConfigError) as caught:
        check_local(job)
    return str(caught.value)


def test_a_job_that_fits_has_no_warnings() -> None:
    assert check_local(on(procs_per_node=4)) == []


@pytest.mark.parametrize(
    ("devices", "driver", "visible", "count"),
    [
        (0, 0, None, 0),
        (4, 4, None, 4),
        (2, 8, None, 2),  # a container that was given two of eight
        (0, 3, None, 3),
        (4, 4, "0,2", 2),
        (4, 4, "", 0),
        (4, 4, "-1", 0),
        (4, 4, "1,-1,2", 1),
        (1, 1, "0,1", 1),
        (2, 2, "GPU-1234", 1),
    ],
)
def test_gpus_are_counted_without_torch(
    machine: Path, monkeypatch: pytest.MonkeyPatch, devices: int, driver: int, visible: str | None, count: int
) -> None:
    gpus(machine, devices, driver)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_gpus() == count


def test_more_gpus_than_here(machine: Path) -> None:
    assert "2 GPUs are asked for, none can be used here" in refusal(on(gpus_per_node=2))
    gpus(machine, 2, 2)
    assert check_local(on(gpus_per_node=2)) == []
    text = refusal(on(nodes=2, gpus_per_node=2))
    assert "4 GPUs are asked for (2 nodes of 2, all on this machine), 2 can be used here" in text
    assert "try --set resources.gpus_per_node=1" in text


def test_nccl_without_a_gpu() -> None:
    assert "process_group: nccl needs GPUs" in refusal(replace(JOB, process_group="nccl"))


def test_busy_cores_are_a_warning_and_far_too_many_ranks_an_error() -> None:
    [warning] = check_local(on(procs_per_node=5))
    assert "5 CPU cores are asked for and 4 can be used here" in warning
    [warning] = check_local(on(procs_per_node=2, cpus_per_proc=3))
    assert "6 CPU cores" in warning
    assert len(check_local(on(nodes=4, procs_per_node=4))) == 1
    assert "17 ranks are asked for, and 4 cores can hardly run more than 16" in refusal(on(procs_per_node=17))


def test_an_elastic_job_needs_only_its_least_nodes() -> None:
    assert check_local(replace(JOB, resources=Resources(nodes=NodeCount(2, 100)))) == []


def test_scripts_must_be_there(machine: Path) -> None:
    (machine / "train.py").touch()
    assert check_local(replace(JOB, module=None, script="train.py")) == []
    text = refusal(replace(JOB, module=None, script="trian.py"))
    assert f"there is no file trian.py below {machine}; did you mean train.py?" in text
    assert "there is no file no/train.py, and no folder no" in refusal(replace(JOB, module=None, script="no/train.py"))
    assert "dev is a folder" in refusal(replace(JOB, module=None, script="dev"))


def test_memory(machine: Path) -> None:
    fits = replace(JOB, resources=Resources(memory=Size(8 * 2**30)))
    assert check_local(fits) == []
    too_much = replace(fits, resources=replace(fits.resources, nodes=NodeCount(2, 2)))
    assert "16GiB are asked for, and this machine has 8.0GiB" in refusal(too_much)
    (machine / "meminfo").unlink()
    check_local(too_much)


def test_secrets_must_be_set(monkeypatch: pytest.MonkeyPatch) -> None:
    job = replace(JOB, secrets=["MY_TOKEN"])
    assert "MY_TOKEN is not set in this shell" in refusal(job)
    monkeypatch.setenv("MY_TOKEN", "x")
    assert check_local(job) == []


def test_memory_storage_cannot_be_shared() -> None:
    assert "memory:// lives in one process" in refusal(replace(JOB, storage="memory://runs"))
    with pytest.raises(ConfigError, match="memory:// lives in one process"):
        check_local(JOB, "memory://runs")
    assert check_local(replace(JOB, storage="memory://runs"), "s3://bucket/runs") == []


def test_sections_of_other_backends_are_no_mistake() -> None:
    assert check_local(replace(JOB, slurm=Slurm(partition="gpu"), kubernetes=Kubernetes(queue="a"))) == []


def test_all_problems_come_at_once() -> None:
    job = replace(on(gpus_per_node=9, procs_per_node=99), secrets=["A", "B"], storage="memory://")
    assert len(refusal(job).splitlines()) == 1 + 5


def test_the_real_machine_can_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert preflight.cores() >= 1
    assert preflight.count_gpus() >= 0
    assert (preflight._machine_memory() or 0) > 2**20
