"""Kill a training at its worst moment, let it go on, and compare every bit of what comes out."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e

LAST_STEP = 69
KILL_AT = 25


def figures(relay: Any) -> dict[str, Any]:
    """What must be the same however a run got to its end: hashes, validation figures, and the curve without a gap."""
    steps = {event["step"]: event["metrics"]["loss"] for event in relay.events("step")}
    evaluations = {event["step"]: event["metrics"] for event in relay.events("evaluation")}
    assert sorted(steps) == list(range(1, LAST_STEP + 1))
    newest = max(relay.run().glob("checkpoints/step-*"))
    described = (newest / "state.json").read_bytes()  # also in the same order, which the digest does not count
    return {"digest": relay.digest(), "state.json": described, "evaluations": evaluations, "losses": steps}


@pytest.fixture(scope="module")
def undisturbed(make_relay: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The figures of a run that was left alone."""
    relay = make_relay(tmp_path_factory.mktemp("undisturbed"))
    relay("run", "paced.yaml")
    relay.wait_until_nothing_is_left()
    return figures(relay)


def train_to_the_middle(relay: Any, *sets: str) -> Any:
    """Start a run and wait for step KILL_AT. Its steps take long, or the end might come before the blow."""
    relay.pace(0.004)
    job = relay.start("run", "paced.yaml", *sets)
    relay.wait_for_step(KILL_AT)
    return job


def kill_rank_0(relay: Any) -> None:
    os.kill(relay.process("torchrelay.train", rank=0), signal.SIGKILL)


def kill_rank_1(relay: Any) -> None:
    os.kill(relay.process("torchrelay.train", rank=1), signal.SIGKILL)


def kill_torchrun(relay: Any) -> None:
    os.kill(relay.process("torch.distributed.run"), signal.SIGKILL)


def kill_guard(relay: Any) -> None:
    os.kill(relay.process("guard of"), signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_rank_0, kill_rank_1, kill_torchrun, kill_guard])
def test_a_killed_part_is_started_again_by_itself(relay: Any, undisturbed: Any, kill: Callable[[Any], None]) -> None:
    job = train_to_the_middle(relay)
    kill(relay)
    relay.pace(0.0)
    output = relay.finish(job)
    relay.wait_until_nothing_is_left()
    assert "SIGKILL" in output
    assert relay.json("status", relay.run().name)["attempts"] == 1
    assert figures(relay) == undisturbed


def press_ctrl_c(relay: Any, job: Any) -> int:
    job.send_signal(signal.SIGINT)
    return 75


def ask_to_stop(relay: Any, job: Any) -> int:
    relay("stop", relay.run().name)
    return 75


def terminate_launcher(relay: Any, job: Any) -> int:
    job.terminate()
    return 75


def signal_supervisor(relay: Any, job: Any) -> int:
    """As Slurm does before the time limit."""
    os.kill(relay.process("torchrelay_launch", " node "), signal.SIGUSR1)
    return 75


def kill_launcher(relay: Any, job: Any) -> int:
    job.kill()
    return -signal.SIGKILL


def kill_supervisor(relay: Any, job: Any) -> int:
    os.kill(relay.process("torchrelay_launch", " node "), signal.SIGKILL)
    return 137


def cancel(relay: Any, job: Any) -> int:
    relay("cancel", relay.run().name)
    return 137


WITH_NOTICE = (press_ctrl_c, ask_to_stop, terminate_launcher, signal_supervisor, kill_launcher)
WITHOUT = (kill_supervisor, cancel)


@pytest.mark.parametrize("interrupt", [*WITH_NOTICE, *WITHOUT])
def test_an_interrupted_run_resumes_to_the_same_end(
    relay: Any, undisturbed: Any, interrupt: Callable[[Any, Any], int]
) -> None:
    job = train_to_the_middle(relay)
    relay.finish(job, interrupt(relay, job))
    relay.wait_until_nothing_is_left()
    relay.pace(0.0)
    status = relay.json("status", relay.run().name)
    assert status["state"] in ("stopped", "preempted", "failed")
    if interrupt in WITH_NOTICE:
        assert status["last_checkpoint_step"] >= KILL_AT  # a stop with notice loses no step
    relay("resume", relay.run().name)
    relay.wait_until_nothing_is_left()
    assert figures(relay) == undisturbed


def test_a_stop_of_every_process_while_workers_start_loses_no_step(relay: Any, undisturbed: Any) -> None:
    """As Slurm stops a step: its signal reaches all processes, also workers that were forked a moment ago."""
    relay.pace(0.004)
    job = relay.start("run", "paced.yaml", "--set", "train.data.val.target=hesitant:Digits")
    relay.wait_until("there is a checkpoint", lambda: list(relay.run().glob("checkpoints/*/manifest.json")))
    (relay.folder / "linger").touch()
    relay.wait_until("the workers of the evaluation start", lambda: len(list(relay.folder.glob("lingering-*"))) == 2)
    for pid in relay.processes():
        os.kill(pid, signal.SIGTERM)
    (relay.folder / "linger").unlink()
    relay.finish(job, 75)
    relay.wait_until_nothing_is_left()
    assert relay.json("status", relay.run().name)["last_checkpoint_step"] == 23
    relay.pace(0.0)
    relay("resume", relay.run().name)
    assert figures(relay) == undisturbed


def test_two_supervisors_survive_the_loss_of_a_rank_and_end_as_one_would(relay: Any, undisturbed: Any) -> None:
    job = train_to_the_middle(relay, "--set", "resources.nodes=2", "--set", "resources.procs_per_node=1")
    kill_rank_1(relay)
    relay.pace(0.0)
    relay.finish(job)
    relay.wait_until_nothing_is_left()
    assert figures(relay) == undisturbed


def test_three_ranks_and_several_gradient_buckets_resume_exactly(relay: Any, make_relay: Any, tmp_path: Path) -> None:
    """Sums over three ranks depend on where DDP's buckets begin, which it changes after its first backward."""
    sets = ["--set", "resources.procs_per_node=3", "--set", "train.model.args.sizes=[64, 700, 700, 10]"]
    alone = make_relay(tmp_path / "alone")
    alone("run", "paced.yaml", *sets)
    job = train_to_the_middle(relay, *sets)
    kill_rank_1(relay)
    relay.pace(0.0)
    relay.finish(job)
    assert relay.digest() == alone.digest()
