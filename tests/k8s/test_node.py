"""Pods' real commands in network namespaces: disruptions, stops and replacements, and the same bits in the end."""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import Cluster, kubeconfig_of, serving
from pod_node import JobRunner, missing

from torchrelay.contract import manifest
from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.storage import open_storage
from torchrelay_launch.cli import main
from torchrelay_launch.runs.status import RunStatus, run_status

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of the client's own
    pytest.mark.timeout(400),
]
PROGRAMS = Path(__file__).resolve().parent.parent / "e2e" / "programs"
LIMIT_S = 180.0


class Bench:
    """A folder with the programs, a cluster, and the command line on it."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.work = folder / "work"
        shutil.copytree(PROGRAMS, self.work)
        self.runners: list[JobRunner] = []

    def submit(self, *sets: str) -> str:
        """Submit the paced job with two pods of one rank each; the run's URL."""
        volume = [{"name": "runs", "mount": str(self.folder), "host_path": str(self.folder)}]
        options = {
            "image": "i:1",
            "python": sys.executable,
            "workdir": str(self.work),
            "join": "60s",
            "volumes": volume,
        }
        spec = yaml.safe_load((self.work / "paced.yaml").read_text())
        spec |= {"backend": "kubernetes", "code": "live", "kubernetes": options, "storage": str(self.folder / "runs")}
        spec["resources"] = {"nodes": 2, "procs_per_node": 1, "cpus_per_proc": 1}
        spec["train"]["data"]["workers"] = 0
        spec["train"]["epochs"] = 2
        path = self.work / "job.yaml"
        path.write_text(yaml.safe_dump(spec))
        before = set((self.folder / "runs").glob("*"))
        words = [word for one in sets for word in ("--set", one)]
        assert main(["submit", str(path), *words]) == 0
        (run,) = set((self.folder / "runs").glob("*")) - before
        return str(run)

    def run_pods(self, url: str) -> JobRunner:
        """A node that runs the pods of the run's newest job."""
        runner = JobRunner(self.cluster, run_status(open_storage(url)).backend_id, self.folder, self.work)
        self.runners.append(runner)
        runner.start()
        return runner

    def wait(self, what: str, condition: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            if value := condition():
                return value
            time.sleep(0.05)
        logs = "\n".join(f"== {path.name}\n{path.read_text()[-3000:]}" for path in sorted(self.folder.glob("*.log")))
        return pytest.fail(f"waited in vain until {what}\n{logs}")

    def wait_for_step(self, url: str, step: int, attempt: int) -> None:
        def reached() -> bool:
            return any(one >= step for one in steps(url, attempt))

        self.wait(f"step {step} of attempt {attempt}", reached)

    def wait_for_job(self, runner: JobRunner, kind: str) -> None:
        def finished() -> bool:
            conditions = (runner.job() or {}).get("status", {}).get("conditions", [])
            return not runner.pods and any(one["type"] == kind for one in conditions)

        self.wait(f"the job is {kind}; pods ended {runner.ended}", finished)


def steps(url: str, attempt: int) -> list[int]:
    found = []
    for path in Path(url).glob(f"events/a{attempt:04d}-*"):
        for line in path.read_text().split("\n")[:-1]:
            event = json.loads(line)
            if event["event"] == "step":
                found.append(event["step"])
    return found


def status_of(url: str) -> RunStatus:
    return run_status(open_storage(url))


def digest(url: str) -> tuple[int, str, str]:
    storage = open_storage(url)
    newest = manifest.newest_committed(storage)
    assert newest is not None
    found = manifest.digest(storage, newest.folder)
    return found.step, found.weights, found.state


@pytest.fixture(scope="module")
def cluster_url() -> Iterator[tuple[Cluster, str]]:
    cluster = Cluster()
    with serving(cluster) as url:
        yield cluster, url


@pytest.fixture(scope="module")
def bench(cluster_url: tuple[Cluster, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    if why := missing():
        pytest.fail(why, pytrace=False)
    cluster, url = cluster_url
    folder = tmp_path_factory.mktemp("node")
    config = folder / "kubeconfig"
    config.write_text(yaml.safe_dump(kubeconfig_of(url)))
    made = Bench(folder, cluster)
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        patch.chdir(made.work)
        stack.callback(lambda: [runner.close() for runner in made.runners])
        yield made


@pytest.fixture(scope="module")
def undisturbed(bench: Bench) -> tuple[int, str, str]:
    """The digest of a run that nothing happened to."""
    url = bench.submit()
    runner = bench.run_pods(url)
    bench.wait_for_job(runner, "Complete")
    assert [code for _, code in runner.ended] == [0, 0]
    assert status_of(url).state is RunState.COMPLETED
    return digest(url)


def test_evicted_and_lost_pods_come_back_and_the_bits_are_the_same(
    bench: Bench, undisturbed: tuple[int, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = bench.submit()
    runner = bench.run_pods(url)
    bench.wait_for_step(url, 5, attempt=1)
    first, gone = runner.pods[0], runner.evict(1)
    bench.wait_for_step(url, 6, attempt=2)
    assert runner.pods[0] is first  # who stayed was not started again
    assert (gone.name, 75) in runner.ended
    bench.wait_for_step(url, 20, attempt=2)
    lost = runner.lose(0)
    bench.wait_for_job(runner, "Complete")
    assert (lost.name, 137) in runner.ended
    capsys.readouterr()
    assert main(["logs", url, "--attempt", "2"]) == 0
    assert f"[node 0] pod {lost.name}: its node was lost" in capsys.readouterr().out
    assert not runner.failures  # neither counted
    status = status_of(url)
    assert (status.state, status.attempts) == (RunState.COMPLETED, 3)
    assert digest(url) == undisturbed


def test_both_pods_killed_for_memory_at_once_count_once(
    bench: Bench, undisturbed: tuple[int, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = bench.submit("kubernetes.backoff_limit=1")
    runner = bench.run_pods(url)
    bench.wait_for_step(url, 5, attempt=1)
    assert [runner.kill(index).index for index in (1, 0)] == [1, 0]
    bench.wait_for_step(url, 6, attempt=2)
    assert runner.failures == {0: 1, 1: 1}
    runner.kill(1)
    bench.wait_for_job(runner, "Failed")
    assert runner.failures == {0: 1, 1: 2}
    assert status_of(url).state is RunState.FAILED
    assert main(["resume", url, "--detach"]) == 0
    bench.wait_for_job(bench.run_pods(url), "Complete")
    assert digest(url) == undisturbed


def test_a_network_that_is_gone_for_a_while_leaves_nobody_hanging(
    bench: Bench, undisturbed: tuple[int, str, str]
) -> None:
    """No end of a connection is seen then: each side takes the other for lost when it has been silent for too long."""
    url = bench.submit()
    runner = bench.run_pods(url)
    bench.wait_for_step(url, 5, attempt=1)
    pods = dict(runner.pods)
    runner.plug(1, "down")
    bench.wait("attempt 1 is over", lambda: status_of(url).history[0].outcome)
    failure = status_of(url).history[0].outcome.failure
    assert failure is not None
    assert failure.error.startswith("node 1 was lost")
    runner.plug(1, "up")
    bench.wait_for_job(runner, "Complete")
    assert [code for _, code in runner.ended] == [0, 0]
    assert {name for name, _ in runner.ended} == {pod.name for pod in pods.values()}
    assert status_of(url).attempts == 2
    assert digest(url) == undisturbed


def test_a_stopped_run_ends_its_job_and_is_resumed_as_another(
    bench: Bench, undisturbed: tuple[int, str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    url = bench.submit()
    runner = bench.run_pods(url)
    bench.wait_for_step(url, 5, attempt=1)
    assert main(["stop", url]) == 0
    assert "stopped at step" in capsys.readouterr().out
    bench.wait_for_job(runner, "Failed")
    assert {code for _, code in runner.ended} == {130}
    assert status_of(url).state is RunState.STOPPED
    assert main(["resume", url, "--detach"]) == 0
    bench.wait_for_job(bench.run_pods(url), "Complete")
    assert status_of(url).attempts == 2
    assert digest(url) == undisturbed


def test_a_mistake_fails_the_job_at_once(bench: Bench) -> None:
    url = bench.submit("train.model.target=torchrelay.models.no_such_model")
    runner = bench.run_pods(url)
    bench.wait_for_job(runner, "Failed")
    assert {code for _, code in runner.ended} == {78}
    assert len(runner.ended) == 2
    messages = [path.read_text() for path in bench.folder.glob("*.message")]
    assert any("no_such_model" in text for text in messages)
    status = status_of(url)
    assert status.state is RunState.FAILED
    assert status.error is not None
    assert "no_such_model" in status.error


def test_an_elastic_run_is_scaled(bench: Bench) -> None:
    url = bench.submit("resources.nodes=1..2", "train.epochs=6")
    runner = bench.run_pods(url)
    bench.wait_for_step(url, 5, attempt=1)
    assert main(["scale", url, "3"]) == 78
    runner.unschedulable.add(1)
    assert main(["scale", url, "2"]) == 0
    reached = steps(url, 1)[-1]
    bench.wait_for_step(url, reached + 3, attempt=1)  # with the pod that it has, until the other is there
    runner.unschedulable.clear()
    bench.wait_for_step(url, reached + 5, attempt=2)
    assert len(runner.pods) == 2
    assert main(["scale", url, "1"]) == 0
    bench.wait_for_step(url, steps(url, 2)[-1] + 2, attempt=3)
    runner.unschedulable.add(1)
    assert main(["scale", url, "2"]) == 0
    bench.wait_for_job(runner, "Complete")  # though a pod of it still waits for a node
    assert not runner.failures
    status = status_of(url)
    assert (status.state, status.attempts, status.step) == (RunState.COMPLETED, 3, status.total_steps)
    assert steps(url, 1)[-1] + 1 == steps(url, 2)[0]  # no step twice, none left out
    assert steps(url, 2)[-1] + 1 == steps(url, 3)[0]
