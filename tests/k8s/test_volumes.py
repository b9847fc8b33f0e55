"""Volumes of the pods, and storage that pods can reach."""

import dataclasses
from typing import Any

import pytest
from api_rules import complaints
from some_jobs import RUN, SMALL, main_of, of_kind, pod_of, with_options

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.kubernetes import objects
from torchrelay_launch.spec.models import Volume


def test_a_volume_may_be_mounted_more_than_once() -> None:
    """Which Trainer takes in patches of their own only: its lists of mounts are maps by the volume's name."""
    twice = [Volume(name="a", mount=mount, claim="c", sub_path=mount[1:]) for mount in ("/x", "/y", "/z")]
    job = with_options(of_kind(SMALL, "trainjob"), volumes=[*twice, Volume(name="b", mount="/b", empty_dir=True)])
    made = main_of(objects.render(job, RUN))
    assert complaints(made) == []
    mounted = []
    for patch in made["spec"]["runtimePatches"]:
        (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
        (container,) = replicated["template"]["spec"]["template"]["spec"]["containers"]
        mounted.append((patch["manager"], [one["mountPath"] for one in container["volumeMounts"]]))
    assert mounted == [
        ("torchrelay/launcher", ["/x", "/b"]),
        ("torchrelay/launcher-2", ["/y"]),
        ("torchrelay/launcher-3", ["/z"]),
    ]


@pytest.mark.parametrize("url", ["/home/ada/runs/x", "file:///home/ada/runs/x"])
def test_local_storage_needs_a_volume(url: str) -> None:
    here = dataclasses.replace(RUN, url=url)
    with pytest.raises(ConfigError, match=r"kubernetes\.volumes: .*mount: /home/ada/runs"):
        objects.render(SMALL, here)
    read_only = Volume(name="runs", mount="/home/ada", claim="runs", read_only=True)
    with pytest.raises(ConfigError, match="which pods do not have"):
        objects.render(with_options(SMALL, volumes=[read_only]), here)
    objects.render(with_options(SMALL, volumes=[Volume(name="runs", mount="/home/ada/runs", claim="runs")]), here)


@pytest.mark.parametrize(
    "source",
    [{"empty_dir": True}, {"config_map": "c"}, {"secret": "s"}, {"source": {"projected": {}}}],
)
def test_what_only_one_pod_sees_is_no_storage(source: dict[str, Any]) -> None:
    job = with_options(SMALL, volumes=[Volume(name="runs", mount="/home/ada/runs", **source)])
    with pytest.raises(ConfigError, match="which pods do not have"):
        objects.render(job, dataclasses.replace(RUN, url="/home/ada/runs/x"))


def test_a_volume_takes_the_place_of_a_base_manifests_mount_and_of_nothing_else() -> None:
    scratch = Volume(name="scratch", mount="/tmp", host_path="/mnt/nvme")
    mine = Volume(name="code", mount="/data/code", claim="mycode")
    job = with_options(dataclasses.replace(SMALL, code="snapshot"), volumes=[scratch, mine])
    made = objects.render(job, RUN)
    assert complaints(main_of(made)) == []
    (container,) = pod_of(made)["containers"]
    mounts = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
    assert mounts == {"/dev/shm": "shm", "/tmp": "scratch", "/data/code": "code", "/workspace": "torchrelay-code"}
    sources = {one["name"]: one for one in pod_of(made)["volumes"]}
    assert sources["code"]["persistentVolumeClaim"] == {"claimName": "mycode"}


def test_storage_in_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match="lives in this process only"):
        objects.render(SMALL, dataclasses.replace(RUN, url="memory://runs/x"))
