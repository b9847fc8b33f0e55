"""What a pod does that is not the first: join, wait, give its place back, and follow the first to its next attempt."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from submitting import pod_argv

from torchrelay.contract import layout, records
from torchrelay.contract.errors import StorageError
from torchrelay.contract.exit_codes import ExitCode, Outcome
from torchrelay.contract.records import OutcomeRecord
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.kubernetes import generations, meeting, participation
from torchrelay_launch.backends.kubernetes.code import packed
from torchrelay_launch.backends.kubernetes.generations import Begin
from torchrelay_launch.backends.kubernetes.pod_options import PodOptions
from torchrelay_launch.runs.claims import claim, create_run, new_attempt
from torchrelay_launch.spec.models import JobSpec

JOB = JobSpec(name="j", script="train.py")
HERE = "127.0.0.1"


@pytest.fixture
def run(tmp_path: Path) -> Storage:
    storage = create_run(str(tmp_path), JOB)
    claim(storage, new_attempt(1, JOB, "kubernetes", "/w"), JOB, {})
    return storage


@pytest.fixture
def first_pod() -> Iterator[int]:
    """The port of a first pod that listens."""
    with socket.create_server((HERE, 0)) as listening:
        yield listening.getsockname()[1]


class Follower(participation.Pod):
    """The second pod of a job. `codes`: how its supervisor ends in each attempt that it joins; with 0 all is done."""

    def __init__(
        self, run: Storage, codes: list[int], join_s: float = 30.0, code: str | None = None, workdir: str = "/w"
    ) -> None:
        self.terminated: list[int] = []
        self.joined: list[int] = []
        self.codes = codes
        options = PodOptions(run.url, 1, "j-a1", 2, "j-a1-0.j-a1:29400", join_s, workdir, code, 1)
        super().__init__(options, run, self.terminated)

    def _supervise(self, number: int, *_: object) -> int:
        self.joined.append(number)
        if self.codes[0] == 0:
            complete(self._storage, number)
        return self.codes.pop(0)


def begin(run: Storage, attempt: int, port: int) -> None:
    generations.write_begin(run, attempt, Begin("j-a1", "j-a1-0-x", HERE, port, 2, "token", time.time()))


def begin_next(run: Storage, port: int) -> None:
    """The first pod came back."""
    number = generations.begin_next(run, 1, "j-a1")
    assert isinstance(number, int)
    begin(run, number, port)


def complete(run: Storage, attempt: int) -> None:
    run.create(layout.attempt_file(attempt, "outcome"), records.dump(OutcomeRecord(Outcome.COMPLETED, 0, time.time())))


def later(seconds: float, do: object, *args: object) -> None:
    threading.Timer(seconds, do, args).start()  # type: ignore[arg-type]


def test_an_attempt_whose_first_pod_is_gone_is_not_joined_again(
    run: Storage, first_pod: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first pod dies without a word and is back only after this one has stopped to wait for its outcome."""
    monkeypatch.setattr(participation, "OUTCOME_S", 0.2)
    begin(run, 1, first_pod)
    pod = Follower(run, [int(ExitCode.FAILED), 0])
    later(1.0, begin_next, run, first_pod)
    assert pod.run() == 0
    assert pod.joined == [1, 2]


def test_a_later_attempt_is_joined_while_the_first_pod_of_this_one_does_not_answer(
    run: Storage, first_pod: int, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run, 1, port=1)
    pod = Follower(run, [0])
    later(1.0, begin_next, run, first_pod)
    began = time.monotonic()
    assert pod.run() == 0
    assert pod.joined == [2]
    assert time.monotonic() - began < 15
    assert capsys.readouterr().out.count("waiting for the first pod of attempt 1, j-a1-0-x at 127.0.0.1") == 1


def test_the_place_is_given_back_when_the_first_pod_never_answers(
    run: Storage, capsys: pytest.CaptureFixture[str]
) -> None:
    begin(run, 1, port=1)
    pod = Follower(run, [], join_s=1.0)
    assert pod.run() == ExitCode.PREEMPTED  # 78 would end the job for good
    assert "giving this place back" in capsys.readouterr().out


def test_a_pod_that_the_first_refuses_again_and_again_says_that_something_is_wrong(
    run: Storage, first_pod: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(participation, "OUTCOME_S", 0.1)
    begin(run, 1, first_pod)
    pod = Follower(run, [int(ExitCode.CONFIG)] * 3)
    assert pod.run() == ExitCode.CONFIG
    assert pod.joined == [1, 1, 1]


def test_a_pod_that_starts_while_the_storage_is_away_waits_for_it(
    run: Storage, first_pod: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Were it to end, its replacements would too, and soon the job."""
    tries: list[str] = []
    stores = {"code/a0001.tar.gz": packed(Path(__file__).parent)}
    read = type(run).read

    def away_at_first(storage: Storage, path: str) -> bytes:
        tries.append(path)
        if len(tries) < 3:
            raise StorageError("no route to host")
        return stores.get(path) or read(storage, path)

    monkeypatch.setattr(participation, "AWAY_S", 0.01)
    monkeypatch.setattr(type(run), "read", away_at_first)
    begin(run, 1, first_pod)
    pod = Follower(run, [0], code="code/a0001.tar.gz", workdir=str(tmp_path / "w"))
    assert pod.run() == 0
    assert tries[:3] == ["code/a0001.tar.gz"] * 3
    assert (tmp_path / "w" / Path(__file__).name).is_file()
    assert "no route to host; trying again" in capsys.readouterr().out


def test_a_storage_that_stays_away_ends_the_pod(run: Storage, first_pod: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """After as long as a pod waits for another, from when it went away, however long the pod had trained before."""
    monkeypatch.setattr(participation, "AWAY_S", 0.01)
    begin(run, 1, first_pod)
    pod = Follower(run, [], join_s=0.5)
    pod._waiting_since -= 1000
    away_since = time.monotonic()

    def away(*_: object) -> bytes:
        raise StorageError("no route to host")

    monkeypatch.setattr(type(run), "read", away)
    with pytest.raises(StorageError, match="no route"):
        pod.run()
    assert time.monotonic() - away_since > 0.5


def test_a_pod_that_is_told_to_go_when_the_run_is_complete_completes(run: Storage, first_pod: int) -> None:
    """The first pod's success ends the job, and Kubernetes ends the pods that are not done with their last words."""
    begin(run, 1, first_pod)
    pod = Follower(run, [0])
    told = pod._supervise

    def told_to_go(number: int, *rest: object) -> int:
        pod.terminated.append(15)
        return told(number, *rest)

    pod._supervise = told_to_go  # type: ignore[method-assign]
    assert pod.run() == 0


def test_a_pod_that_is_told_to_go_before_it_began_claims_nothing(run: Storage) -> None:
    options = PodOptions(run.url, 1, "j-a1", 1, "j-a1-0.j-a1:29400", 30.0, "/w", None, 0)
    assert participation.Pod(options, run, [15]).run() == ExitCode.PREEMPTED
    assert generations.read_begin(run, 1) is None


@pytest.mark.parametrize("index", ["0", "1"])
def test_a_job_that_was_applied_by_hand_says_how_to_start_it(
    index: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = tmp_path / "message"
    monkeypatch.setenv("JOB_COMPLETION_INDEX", index)
    monkeypatch.setenv("TORCHRELAY_TERMINATION_LOG", str(message))
    assert participation.take_part(pod_argv(str(tmp_path / "runs" / "x"), nodes=2), []) == ExitCode.CONFIG
    assert "start it with `torchrelay submit`" in message.read_text()


def test_the_interface_is_named_where_the_host_name_does_not_lead_to_the_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with the host's network, on a node whose /etc/hosts takes its own name for the loopback."""
    assert meeting.interfaces("") == {}
    monkeypatch.setattr(socket, "gethostname", lambda: "localhost")
    assert meeting.interfaces(HERE) == {}
    monkeypatch.setattr(socket, "gethostname", lambda: "no-such-host.invalid")
    assert meeting.interfaces(HERE) == {"GLOO_SOCKET_IFNAME": "lo"}
    assert meeting.interfaces("192.0.2.1") == {}  # no interface has it
