"""Stopping, cancelling, resuming and scaling a run on Kubernetes."""

import dataclasses
from pathlib import Path

import pytest
from api_server import Cluster
from submitting import begin, name_of, pod, submit, with_options

from torchrelay.contract import layout, records
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.records import OutcomeRecord
from torchrelay.contract.units import NodeCount
from torchrelay_launch.backends.kubernetes import generations
from torchrelay_launch.backends.kubernetes.code import fetch
from torchrelay_launch.cli import main
from torchrelay_launch.planning import plan
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.spec.models import JobSpec, Resources
from torchrelay_launch.starting import start_attempt

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the client's own


def test_stop_while_the_api_is_away_is_seen_by_pods_that_begin(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    cluster.away = True
    assert main(["stop", started.storage.url]) == 74
    assert "pods that begin meanwhile see the request and stop by themselves" in capsys.readouterr().err
    assert generations.stopped(started.storage, 1)


def test_stop_before_it_begins_takes_it_out(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    started = submit(job, tmp_path)
    assert main(["stop", started.storage.url]) == 0
    assert cluster.objects == {}  # the Service went with the Job
    assert run_status(started.storage).state is RunState.STOPPED


def test_stop_leaves_running_pods_to_their_supervisors(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    cluster.put("pods", pod(started, phase="Running"))
    assert main(["stop", started.storage.url, "--no-wait"]) == 0
    assert cluster.all("jobs") != []
    assert started.storage.size(layout.attempt_file(1, "stop")) is not None


def test_stop_of_a_run_whose_pod_was_killed_and_has_no_other_yet(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    cluster.put("pods", pod(started, phase="Failed"))
    assert main(["stop", started.storage.url]) == 0
    assert cluster.all("jobs") == []
    assert run_status(started.storage).state is RunState.STOPPED


def test_cancel_deletes_the_job_from_any_machine(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    begin(started)
    cluster.put("pods", pod(started, phase="Running"))
    assert main(["cancel", started.storage.url]) == 0
    assert cluster.all("jobs") == []
    assert run_status(started.storage).state is RunState.STOPPED


def test_resume_from_a_machine_without_the_folder(
    kubeconfig: Path,
    cluster: Cluster,
    job: JobSpec,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    with monkeypatch.context() as there:
        there.chdir(work)
        started = submit(dataclasses.replace(job, code="snapshot"), tmp_path)
    main(["stop", started.storage.url])
    (work / "train.py").unlink()
    work.rmdir()
    assert main(["resume", started.storage.url, "--detach"]) == 0
    (made,) = cluster.all("jobs")
    (container,) = made["spec"]["template"]["spec"]["containers"]
    assert container["command"][-2:] == ["--code", "code/a0002.tar.gz"]
    fetch(started.storage, "code/a0002.tar.gz", tmp_path / "pod")
    assert (tmp_path / "pod" / "train.py").read_text() == "print(1)"
    main(["stop", started.storage.url])
    assert main(["resume", started.storage.url, "--detach", "--workdir", str(work)]) == 78
    assert "is not on this machine" in capsys.readouterr().err


def test_resume_makes_another_job_of_the_run(kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    first = submit(job, tmp_path)
    main(["stop", first.storage.url])
    what = plan(job, "kubernetes", str(tmp_path / "runs"))
    second = start_attempt(what, first.storage, 1, tethered=False)
    assert name_of(second).endswith("-a2")
    assert [one["metadata"]["name"] for one in cluster.all("jobs")] == [name_of(second)]


def test_scale_tells_the_pods_first_and_then_the_job(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    elastic = dataclasses.replace(job, resources=Resources(NodeCount(1, 4)))
    started = submit(elastic, tmp_path)
    assert main(["scale", started.storage.url, "3"]) == 0
    spec = cluster.all("jobs")[0]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (3, 3)
    assert generations.wanted_nodes(started.storage, 1) == 3
    cluster.conflicts = 2  # a controller wrote the Job's status at the same time
    assert main(["scale", started.storage.url, "2"]) == 0
    assert main(["scale", started.storage.url, "3"]) == 0
    cluster.forbidden.add(("patch", "jobs"))
    assert main(["scale", started.storage.url, "4"]) == 78
    assert "not allowed to patch jobs" in capsys.readouterr().err
    assert generations.wanted_nodes(started.storage, 1) == 3
    assert main(["scale", started.storage.url, "5"]) == 78
    assert "5 is not within 1..4" in capsys.readouterr().err


def test_a_fixed_run_is_not_scaled(
    kubeconfig: Path, job: JobSpec, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    started = submit(job, tmp_path)
    assert main(["scale", started.storage.url, "2"]) == 78
    assert "1 is fixed; an elastic run has a range" in capsys.readouterr().err


def test_stop_of_a_run_that_went_back_to_the_queue(
    kubeconfig: Path, cluster: Cluster, job: JobSpec, tmp_path: Path
) -> None:
    started = submit(with_options(job, queue="team-a"), tmp_path)
    begin(started)
    outcome = OutcomeRecord(Outcome.PREEMPTED, 75, 1.0)
    started.storage.create(layout.attempt_file(1, "outcome"), records.dump(outcome))
    made = cluster.all("jobs")[0]
    cluster.put("jobs", made | {"status": {"conditions": [{"type": "Suspended", "status": "True"}]}})
    assert run_status(started.storage).state is RunState.PENDING
    assert main(["stop", started.storage.url]) == 0
    assert cluster.all("jobs") == []
    assert run_status(started.storage).state is RunState.STOPPED
