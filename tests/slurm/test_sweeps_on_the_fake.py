"""Sweeps on the fake: each task of an array is a run of its own, whatever happens to the others."""

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(180)

ONE_NODE = "resources.nodes=1"
THREE = "sweep={grid: {env.LETTER: [a, b, c]}, at_once: 2}"


def wait_for_all(relay: Any, count: int = 3) -> None:
    """Wait until every run's last job has decided that nothing follows, and all have completed."""

    def ended(run: Path) -> bool:
        newest = max(run.glob("attempts/*"))
        end = newest / "slurm-end.json"
        return end.exists() and not json.loads(end.read_text())["next_job"]

    relay.wait_until("all have ended", lambda: sum(map(ended, relay.storage.glob("*-00?"))) == count)
    assert [row["state"] for row in relay.results().values()] == ["completed"] * count


def test_an_array_of_runs_each_with_its_own_value(fake_relay: Any, tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    fake_relay._environment["PRETEND_NOTES"] = str(notes)
    words = fake_relay._pretended(3, 1_000_000, (ONE_NODE, THREE))
    shown = json.loads(fake_relay("render", *words, "--json"))
    fake_relay("submit", *words)
    wait_for_all(fake_relay)
    submitted = (fake_relay.sweep() / "slurm" / "sweep.sbatch").read_text()
    assert "#SBATCH --array=1-3%2\n" in submitted
    assert [submitted] == [
        text.replace("SWEEP_ID", fake_relay.sweep().name) for text in shown["together"]["files"].values()
    ]
    found = fake_relay.results()
    assert [found[number]["values"] for number in (1, 2, 3)] == [{"env.LETTER": one} for one in "abc"]
    assert [found[number]["backend_id"] for number in (1, 2, 3)] == ["1_1", "1_2", "1_3"]
    for number in (1, 2, 3):
        (script,) = fake_relay.at(number).run().glob("slurm/*.sbatch")
        (rendered,) = shown["points"][number - 1]["files"].values()
        assert script.read_text() == rendered.replace("SWEEP_ID", fake_relay.sweep().name)
        assert fake_relay.record("attempt")["workdir"].startswith(str(fake_relay.run()))
        assert (fake_relay.run() / "slurm" / f"job-1_{number}.out").exists()
        fake_relay.wait_until("its environment is forgotten", lambda: not list(fake_relay.run().glob("slurm/*.env")))


def test_one_that_is_requeued_goes_on_in_a_job_of_its_own(fake_relay: Any) -> None:
    fake_relay.pretend(40, ONE_NODE, THREE)
    fake_relay.at(1).wait_for_step(3)
    fake_relay.slurm("scontrol", "requeue", "1_1")
    wait_for_all(fake_relay)
    assert fake_relay.at(1).causes() == ["requeue", "completed"]
    assert fake_relay.jobs() == ["1_1", "4"]
    assert [event["step"] for event in fake_relay.events("step")] == list(range(1, 41))
    for number in (2, 3):
        assert fake_relay.at(number).jobs() == [f"1_{number}"]
        assert fake_relay.causes() == ["completed"]


def test_a_sweep_is_stopped_as_a_whole_and_resumed_as_a_whole(fake_relay: Any) -> None:
    fake_relay.pretend(900, ONE_NODE, THREE)
    fake_relay.at(2).wait_for_step(3)
    sweep = fake_relay.sweep().name
    assert "3 stopped" in fake_relay("stop", sweep)
    assert fake_relay.slurm("squeue").strip() == ""
    fake_relay._environment["PRETEND_STEPS"] = "3"
    fake_relay("resume", sweep, "--detach")
    wait_for_all(fake_relay)
    assert fake_relay.at(2).jobs() == ["1_2", "5"]
    assert fake_relay.at(3).jobs() == ["1_3", "6"]


def test_without_an_array_each_point_is_a_job_of_its_own(fake_relay: Any) -> None:
    words = fake_relay._pretended(2, 1_000_000, (ONE_NODE, "sweep={grid: {resources.cpus_per_proc: [1, 2]}}"))
    assert json.loads(fake_relay("render", *words, "--json"))["together"] is None
    words = fake_relay._pretended(2, 1_000_000, (ONE_NODE, THREE, "slurm.array=false"))
    assert "sweep.at_once: has no effect" in fake_relay("submit", *words)
    wait_for_all(fake_relay)
    assert [fake_relay.results()[number]["backend_id"] for number in (1, 2, 3)] == ["1", "2", "3"]


def test_what_slurm_refuses_leaves_no_runs_behind(fake_relay: Any) -> None:
    assert "there is no partition 'gpu' here" in fake_relay.refused(78, THREE, "slurm.partition=gpu")
    assert "point 2 (partition=nope): slurm.partition: there is no partition 'nope' here" in fake_relay.refused(
        78, "sweep={list: [{slurm.partition: main}, {slurm.partition: nope}]}"
    )
    assert list(fake_relay.storage.glob("*")) == []


def test_run_says_what_to_use_for_a_sweep_on_a_cluster(fake_relay: Any) -> None:
    output = fake_relay("run", *fake_relay._pretended(1, 1, (THREE,)), code=78)
    assert "start them with `torchrelay submit`" in output
