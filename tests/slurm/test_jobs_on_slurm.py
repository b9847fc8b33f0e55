"""The jobs in jobs/, two at once on the same two nodes with one and two ranks each, lose a node and end the same."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from relay import Relay, with_programs
from slurm_cluster import Cluster

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

JOBS = Path(__file__).parents[2] / "jobs"
SAVING = ("checkpoint.every=10 steps", "train.log_every=1")
SETS = {  # 180 and 200 steps
    "digits": ("train.epochs=4", "train.data.train.target=paced:PacedDigits", *SAVING),
    "mnist": (
        *("train.epochs=20", "train.data.root=mnist", "train.data.train.target=paced:PacedMNIST"),
        *("train.data.val.target=paced:PacedMNIST", "resources.memory=1GiB", *SAVING),
    ),
}


def make_mnist(folder: Path) -> None:
    """A data set in MNIST's format: noise, and a bright row that tells the class; nothing is downloaded."""
    random = np.random.default_rng(1)
    raw = folder / "PacedMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 640), ("t10k", 128)):
        labels = random.integers(0, 10, count, dtype=np.uint8)
        images = random.integers(0, 100, (count, 28, 28), dtype=np.uint8)
        images[np.arange(count), 2 * labels] = 255
        for name, array in ((f"{part}-images-idx3-ubyte", images), (f"{part}-labels-idx1-ubyte", labels)):
            head = np.array([0x0800 + array.ndim, *array.shape], dtype=">i4")  # 8: unsigned bytes
            (raw / name).write_bytes(head.tobytes() + array.tobytes())


def left_alone(folder: Path, name: str, ranks: int) -> Any:
    """Start the job on this machine, undisturbed."""
    relay = Relay(with_programs(folder))
    (folder / "pace").write_text("0")
    make_mnist(folder / "mnist")
    sets = [word for one in (f"resources.procs_per_node={ranks}", *SETS[name]) for word in ("--set", one)]
    return relay, relay.start("run", str(JOBS / f"{name}.yaml"), "--quiet", *sets)


def kill_slurmd(slurm: Cluster, nodes: list[str]) -> None:
    """The second node's; what runs there goes on until Slurm ends it."""
    slurm.kill_daemon(f"slurmd-{nodes[1]}")


def kill_first_node(slurm: Cluster, nodes: list[str]) -> None:
    """With the batch scripts on it."""
    slurm.kill_node(nodes[0])


def goes_on(slurm: Cluster, relay: Any) -> bool:
    """Whether there is a second attempt. What Slurm requeued, it would hold for two minutes; this does not wait."""
    job = relay.record("attempt", 1)["backend_id"]
    if slurm.job(job).get("JobState") == "PENDING":
        slurm.run("scontrol", "update", f"JobId={job}", "StartTime=now", check=False)
    time.sleep(0.5)
    return bool(relay.attempt() == 2)


@pytest.mark.parametrize(("lose", "digits_ranks", "mnist_ranks"), [(kill_slurmd, 1, 2), (kill_first_node, 2, 1)])
def test_two_jobs_at_once_lose_a_node_and_end_the_same(
    slurm: Cluster,
    make_slurm_relay: Any,
    tmp_path: Path,
    lose: Any,
    digits_ranks: int,
    mnist_ranks: int,
) -> None:
    ranks = {"digits": digits_ranks, "mnist": mnist_ranks}
    alone = {name: left_alone(tmp_path / f"{name} alone", name, 2 * ranks[name]) for name in ranks}
    relays = {name: make_slurm_relay(name) for name in ranks}
    for relay, process in alone.values():
        relay.finish(process)
    for name, relay in relays.items():
        make_mnist(relay.folder / "mnist")
        relay.pace(0.005)
        relay.submit(str(JOBS / f"{name}.yaml"), f"resources.procs_per_node={ranks[name]}", *SETS[name])
    for relay in relays.values():
        relay.wait_for_step(12)
        relay.pace(0.03)
    nodes = relays["digits"].record("slurm")["nodes"]
    assert relays["mnist"].record("slurm")["nodes"] == nodes
    lose(slurm, nodes)
    for relay in relays.values():
        relay.wait_until("it goes on", lambda relay=relay: goes_on(slurm, relay))
        relay.pace(0.0)
    for name, relay in relays.items():
        relay.wait_for_end()
        assert relay.causes() == ["node failure", "completed"]
        assert {event["world_size"] for event in relay.events("started")} == {2 * ranks[name]}
        expected, _ = alone[name]
        assert relay.digest() == expected.digest()
        assert relay.losses() == {event["step"]: event["metrics"]["loss"] for event in expected.events("step")}
