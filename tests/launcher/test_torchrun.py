import importlib
import re
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.contract.training import Data, Target, Train
from torchrelay.contract.units import Duration, NodeCount
from torchrelay_launch.installed import torch_version
from torchrelay_launch.spec.models import JobSpec, Resources, Restarts
from torchrelay_launch.torchrun import (
    LOG_PREFIX,
    Placement,
    rank_environment,
    run_port,
    split_by_rank,
    torchrun_argv,
)

TRAIN = Train(
    task="lm", data=Data(Target("a.b")), model=Target("a.b"), optimizer=Target("a.b"), global_batch=8, steps=10
)
TRAINED = JobSpec(name="job", train=TRAIN)
SCRIPT = JobSpec(name="job", script="my train.py", args=["--lr", "0.1", "$HOME"])
ALONE = Placement(
    node=0,
    nodes=1,
    master_addr="127.0.0.1",
    master_port=23456,
    run_id="job-1",
    restart=0,
    log_dir="/tmp/logs",
    torch_version="2.14.1+cpu",
    python="python",
)
SECOND_OF_TWO = replace(ALONE, node=1, nodes=2, master_addr="node-a", restart=3)


def on(job: JobSpec, nodes: str, **resources: int) -> JobSpec:
    return replace(job, resources=Resources(nodes=NodeCount.parse(nodes), **resources))


CASES = {
    "single-node": (on(TRAINED, "1", procs_per_node=2), ALONE),
    "two-nodes": (on(TRAINED, "2", gpus_per_node=4), SECOND_OF_TWO),
    "two-nodes-one-machine": (on(TRAINED, "2"), replace(SECOND_OF_TWO, master_addr="127.0.0.1")),
    "elastic-first": (on(TRAINED, "2..8", gpus_per_node=8), replace(SECOND_OF_TWO, node=0, nodes=5)),
    "elastic-other": (on(TRAINED, "2..8", gpus_per_node=8), replace(SECOND_OF_TWO, nodes=5, node_addr="10.0.0.7")),
    "script": (SCRIPT, ALONE),
    "module": (JobSpec(name="job", module="pkg.train", args=["--lr", "0.1"]), ALONE),
    "passthrough": (
        replace(SCRIPT, torchrun={"numa-binding": "node", "monitor_interval": 0.5, "no-python": True, "role": "-x"}),
        ALONE,
    ),
    "torchrun-restarts": (replace(SCRIPT, restarts=Restarts(torchrun=3)), ALONE),
    "torchrun-restarts-two-nodes": (replace(on(SCRIPT, "2"), restarts=Restarts(torchrun=3)), SECOND_OF_TWO),
}


@pytest.mark.parametrize("name", CASES)
def test_commands(name: str, golden_file: Callable[[str, str], None]) -> None:
    job, placement = CASES[name]
    argv, environment = torchrun_argv(job, placement), rank_environment(job)
    lines = [f"{key}={shlex.quote(value)}\n" for key, value in sorted(environment.items())]
    # an option and its value on one line
    lines += [f"{part}\n" for part in re.split(r" (?=-)", shlex.join(argv))]
    golden_file(f"torchrun-{name}.txt", "".join(lines))


def test_torchrun_itself_understands_every_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own parser reads back what was meant, the program and its arguments included."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # or torchrun would set it in this process
    run = importlib.import_module("torch.distributed.run")
    for job, placement in CASES.values():
        argv = torchrun_argv(job, replace(placement, log_dir=str(tmp_path), torch_version=torch_version()))
        assert argv[:3] == ["python", "-m", "torch.distributed.run"]
        parsed = run.parse_args(argv[3:])
        config, _, command = run.config_from_args(parsed)
        assert config.max_nodes == placement.nodes
        assert config.nproc_per_node == job.resources.world_procs_per_node
        assert config.max_restarts == job.restarts.torchrun
        assert config.run_id == placement.rendezvous_id
        program = job.script or job.module or "torchrelay.train"
        assert [parsed.training_script, *parsed.training_script_args] == [program, *job.args]
        assert ("-m" in command) == (job.script is None)


@pytest.mark.parametrize(
    ("version", "given"), [("2.12.1", False), ("2.13.0", True), ("2.14.1+cpu", True), ("3.0", True), ("", False)]
)
def test_shutdown_timeout_needs_torch_2_13(version: str, given: bool) -> None:
    job = replace(TRAINED, restarts=Restarts(grace=Duration(90)))
    argv = torchrun_argv(job, replace(ALONE, torch_version=version))
    assert ("--shutdown-timeout 90" in " ".join(argv)) == given


def test_threads_follow_cores_and_the_jobs_own_variables_win() -> None:
    assert "OMP_NUM_THREADS" not in rank_environment(TRAINED)
    assert rank_environment(on(TRAINED, "1", procs_per_node=2))["OMP_NUM_THREADS"] == "1"
    with_cores = on(TRAINED, "1", procs_per_node=2, cpus_per_proc=3)
    assert rank_environment(with_cores)["OMP_NUM_THREADS"] == "3"
    assert rank_environment(replace(with_cores, env={"OMP_NUM_THREADS": "7"}))["OMP_NUM_THREADS"] == "7"


def test_restarted_ranks_do_not_share_the_store() -> None:
    assert "TORCH_DISABLE_SHARE_RDZV_TCP_STORE" not in rank_environment(SCRIPT)
    job = replace(SCRIPT, restarts=Restarts(torchrun=1))
    assert rank_environment(job)["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] == "1"


def test_every_restart_has_a_rendezvous_of_its_own() -> None:
    commands = {tuple(torchrun_argv(TRAINED, replace(ALONE, restart=restart))) for restart in range(3)}
    assert len(commands) == 3


@given(st.text(max_size=40), st.integers(0, 20_000))
def test_ports_are_in_range_repeatable_and_never_torchruns_default(run_id: str, restart: int) -> None:
    port = run_port(run_id, restart)
    assert 20000 <= port <= 29999
    assert port != 29500
    assert port == run_port(run_id, restart)
    assert port != run_port(run_id, restart + 1)


def test_all_ports_are_used_once_before_one_comes_again() -> None:
    assert len({run_port("job-1", restart) for restart in range(9999)}) == 9999


def prefix(rank: int) -> str:
    return LOG_PREFIX.replace("${rank}", str(rank))


@pytest.mark.parametrize(
    ("line", "pieces"),
    [
        (f"{prefix(3)}step 1", [(3, "step 1")]),
        (f"{prefix(0)}half{prefix(1)}other", [(0, "half"), (1, "other")]),
        (f"a warning{prefix(12)}", [(None, "a warning"), (12, "")]),
        ("torchrun's own", [(None, "torchrun's own")]),
        ("", [(None, "")]),
        (prefix(0), [(0, "")]),
    ],
)
def test_lines_are_split_by_rank_wherever_the_prefix_stands(line: str, pieces: list[tuple[int | None, str]]) -> None:
    assert split_by_rank(line) == pieces
