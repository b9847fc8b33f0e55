"""Creating a job while the API is busy, loses its answers or goes away: nothing is left that trains by itself."""

from pathlib import Path

import pytest
from api_server import Cluster, Refusal
from submitting import name_of, refusal, submit

from torchrelay.contract.errors import SupersededError
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch.backends.kubernetes import creation, generations
from torchrelay_launch.backends.kubernetes.client import Api
from torchrelay_launch.backends.kubernetes.refusals import BusyError
from torchrelay_launch.spec.models import JobSpec

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the client's own
    pytest.mark.usefixtures("kubeconfig"),
    pytest.mark.timeout(60),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BusyError, "wait_s", 0.01)
    monkeypatch.setattr(creation, "UNDO_S", 0.1)
    monkeypatch.setattr(creation, "UNDO_EVERY_S", 0.01)


def only_run(tmp_path: Path) -> Storage:
    (run,) = (tmp_path / "runs").iterdir()
    return open_storage(str(run))


def test_a_quota_that_others_count_to_is_asked_again(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    cluster.conflicts = 3
    submit(job, tmp_path)
    assert len(cluster.all("jobs")) == len(cluster.all("services")) == 1


@pytest.mark.parametrize(("times", "taken"), [(4, True), (5, False)])
def test_a_busy_api_is_asked_again(times: int, taken: bool, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    def busy(method: str, path: str) -> None:
        nonlocal times
        if (method, path.rpartition("/")[2]) == ("POST", "jobs") and times:
            times -= 1
            raise Refusal(429, "too many requests, please try again later")

    cluster.interventions.append(busy)
    if taken:
        submit(job, tmp_path)
    else:
        assert "429 too many requests" in refusal(job, tmp_path)
    assert len(cluster.all("jobs")) == taken


@pytest.mark.parametrize("lost", ["POST jobs", "POST services"])
def test_what_was_made_without_an_answer_is_deleted(lost: str, cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    cluster.lost = lost
    assert "does not answer" in refusal(job, tmp_path)
    assert cluster.objects == {}


def test_what_cannot_be_deleted_ends_by_itself(
    cluster: Cluster, job: JobSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user was told that it failed, and may have submitted it again."""
    cluster.lost = "POST jobs"

    def away(method: str, _path: str) -> None:
        if method == "DELETE":
            raise Refusal(503, "the server is currently unable to handle the request")

    cluster.interventions.append(away)
    said = refusal(job, tmp_path)
    (left,) = cluster.all("jobs")
    name = left["metadata"]["name"]
    assert f"Job {name} may be left in namespace training" in said
    with pytest.raises(SupersededError, match="attempt 1 was given up before it began: the Kubernetes API"):
        generations.begin_next(only_run(tmp_path), 1, name)


def test_an_api_that_was_not_reached_has_made_nothing(
    job: JobSpec, tmp_path: Path, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kubeconfig.write_text(kubeconfig.read_text().replace("http://127.0.0.1:", "http://127.0.0.1:1/"))
    monkeypatch.setattr(Api, "delete", None)
    assert "may be left" not in refusal(job, tmp_path)


def test_a_pod_of_a_job_that_was_stopped_before_it_began(cluster: Cluster, job: JobSpec, tmp_path: Path) -> None:
    from torchrelay_launch.backends.kubernetes.backend import KubernetesBackend

    started = submit(job, tmp_path)
    KubernetesBackend().stop(started.storage)
    outcome = generations.begin_next(started.storage, 1, name_of(started))
    assert not isinstance(outcome, int)
    assert generations.last_code(outcome, asked_to_stop=True) == generations.STOPPED
