"""A pod's part in a run: begin attempts or join them, run this node's supervisor, and know when it is over."""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torchrelay.contract import environment
from torchrelay.contract.errors import ConfigError, StorageError, TorchrelayError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import OutcomeRecord
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch.backends.kubernetes import generations, meeting
from torchrelay_launch.backends.kubernetes.code import fetch
from torchrelay_launch.backends.kubernetes.generations import Begin
from torchrelay_launch.backends.kubernetes.pod_options import PodOptions, parse
from torchrelay_launch.backends.kubernetes.pod_words import leave_words, say, tell_outcome
from torchrelay_launch.supervisor.options import TOKEN_VARIABLE, NodeOptions

LOOK_S = 0.5
AWAY_S = 5.0  # between two tries of a storage that is away
SAY_S = 10.0  # how often a pod that waits says so
OUTCOME_S = 40.0  # how long the first pod may take to notice that a node is gone, and to say so
REFUSALS = 3


class Pod:
    """One pod, from its start to its end. `terminated`: signals that it got, which a handler appends to."""

    def __init__(self, options: PodOptions, storage: Storage, terminated: list[int]) -> None:
        self._options, self._storage, self._terminated = options, storage, terminated
        self._code = options.code  # the snapshot that is still to be fetched
        self._refusals = 0  # in a row, without a word from the first pod
        self._said_waiting = -SAY_S
        self._waits_for = 0  # the attempt whose first pod did not answer yet
        self._left = 0  # the last attempt that this pod was part of and that is over
        self._waiting_since = time.monotonic()
        self._away_since: float | None = None  # since when the storage has given no answer

    def run(self) -> int:
        """Returns the exit code of the pod."""
        while not self._terminated:
            code = self._patiently()
            if code is not None:
                return code
        return int(ExitCode.PREEMPTED)

    def _patiently(self) -> int | None:
        """Once around, waiting for a storage that is away for as long as for another pod."""
        try:
            self._fetch_code()
            code = self._lead() if self._options.node == 0 else self._follow()
        except StorageError as error:
            if isinstance(error.__cause__, PermissionError):  # which no waiting mends
                raise ConfigError(f"{error}; pods run as user {os.getuid()}, see kubernetes.run_as_user") from error
            self._away_since = self._away_since or time.monotonic()
            if time.monotonic() - self._away_since > self._options.join_s:
                raise
            say(f"{error}; trying again")
            self._sleep(AWAY_S)
            return None
        self._away_since = None
        return code

    def _fetch_code(self) -> None:
        if self._code is None:
            return
        fetch(self._storage, self._code, Path(self._options.workdir))
        self._code, self._waiting_since = None, time.monotonic()

    def _lead(self) -> int | None:
        """Begin the next attempt and see it to its end. Returns the pod's exit code, or None to begin another."""
        number = generations.begin_next(self._storage, self._options.attempt, self._options.job)
        if isinstance(number, OutcomeRecord):
            newest = generations.newest_attempt(self._storage)
            return self._last_code(number, newest)
        nodes = generations.wanted_nodes(self._storage, self._options.nodes)
        begin = Begin(
            job=self._options.job,
            pod=os.environ.get("TORCHRELAY_POD") or socket.gethostname(),
            address=os.environ.get("TORCHRELAY_POD_IP") or self._options.name,
            port=meeting.free_port(self._options.port),
            nodes=nodes,
            token=secrets.token_hex(16),
            at=time.time(),
        )
        generations.forget_waiting(self._storage)
        generations.write_begin(self._storage, number, begin)
        say(f"attempt {number} begins, {nodes} node{'s' * (nodes > 1)}, first pod {begin.pod} at {begin.address}")
        code = self._supervise(number, begin, begin.address, self._rescaled(nodes))
        outcome = generations.outcome_of(self._storage, number)
        if outcome is None and self._terminated:
            return int(ExitCode.PREEMPTED)
        if outcome is None:
            say(f"the supervisor ended with exit code {code} and wrote no outcome")
            return code or int(ExitCode.FAILED)
        return self._last_code(outcome, number)

    def _follow(self) -> int | None:
        """Take part in the attempt that the first pod has begun. Returns as `_lead`."""
        number = generations.newest_attempt(self._storage)
        begin = generations.read_begin(self._storage, number)
        if begin is not None and begin.job != self._options.job:
            say(f"attempt {number} belongs to {begin.job}")
            return int(ExitCode.SUPERSEDED)
        outcome = generations.outcome_of(self._storage, number) if begin else None
        if outcome is not None:
            code = self._follower_code(outcome, number)
            return code if code is not None else self._wait()
        too_many = begin is not None and self._options.node >= begin.nodes
        if too_many:
            self._say_waiting()
        if begin is None or too_many or number <= self._left:
            return self._wait()
        host = meeting.host_of(self._options.name, begin.address)
        if not meeting.answers(host, begin.port):  # not yet; or never, and a later attempt will come
            self._say_waiting_for(number, begin)
            return self._wait()
        say(f"joining attempt {number}, first pod {begin.pod} at {begin.address}")
        code = self._supervise(number, begin, host, lambda: False)
        outcome = self._await_outcome(number)
        if outcome is None:
            return self._without_outcome(number, code)
        self._leave(number)
        return self._follower_code(outcome, number)

    def _without_outcome(self, number: int, code: int) -> int | None:
        """After the first pod did not take this one, or has gone without a word, so that this attempt is over."""
        if code != ExitCode.CONFIG:
            self._leave(number)
            return None
        self._refusals += 1
        self._sleep(LOOK_S)
        return int(ExitCode.CONFIG) if self._refusals >= REFUSALS else None

    def _leave(self, number: int) -> None:
        self._left, self._refusals, self._waiting_since = number, 0, time.monotonic()

    def _follower_code(self, outcome: OutcomeRecord, number: int) -> int | None:
        """A failure is counted once: by the first pod."""
        code = self._last_code(outcome, number)
        final = (0, generations.STOPPED, ExitCode.SUPERSEDED, ExitCode.CONFIG, None)
        return code if code in final else int(ExitCode.PREEMPTED)

    def _last_code(self, outcome: OutcomeRecord, number: int) -> int | None:
        code = generations.last_code(outcome, asked_to_stop=generations.stopped(self._storage, number))
        if code is not None:
            tell_outcome(outcome, number)
        if code is None and self._terminated:
            return int(ExitCode.PREEMPTED)
        return code

    def _await_outcome(self, number: int) -> OutcomeRecord | None:
        """The attempt's outcome, or None when it does not come or a later attempt has begun."""
        deadline = time.monotonic() + OUTCOME_S
        while (outcome := generations.outcome_of(self._storage, number)) is None:
            newer = generations.newest_attempt(self._storage) > number
            if newer or self._terminated or time.monotonic() > deadline:
                return None
            time.sleep(LOOK_S)
        return outcome

    def _wait(self) -> int | None:
        """For the first pod to begin an attempt with this node in it."""
        if time.monotonic() - self._waiting_since > self._options.join_s:
            say(f"the first pod began no attempt within {self._options.join_s:g} s; giving this place back")
            return int(ExitCode.PREEMPTED)
        self._sleep(LOOK_S)
        return None

    def _say_waiting(self) -> None:
        """So that the first pod of a run that was scaled up stops for a larger attempt only when all can take part."""
        if time.monotonic() - self._said_waiting > SAY_S:
            self._said_waiting = time.monotonic()
            generations.say_waiting(self._storage, self._options.job, self._options.node)

    def _say_waiting_for(self, number: int, begin: Begin) -> None:
        if self._waits_for != number:
            self._waits_for = number
            say(f"waiting for the first pod of attempt {number}, {begin.pod} at {begin.address}")

    def _sleep(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._terminated and (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, 0.1))

    def _rescaled(self, nodes: int) -> Callable[[], bool]:
        """Whether the run is to have fewer nodes, or more and they are there; asks storage now and then."""
        asked = [time.monotonic()]

        def look() -> bool:
            if time.monotonic() - asked[0] < 2.0:
                return False
            asked[0] = time.monotonic()
            with contextlib.suppress(StorageError):
                wanted = generations.wanted_nodes(self._storage, nodes)
                others = range(nodes, wanted)
                there = all(generations.waits(self._storage, self._options.job, node) for node in others)
                return wanted != nodes and there
            return False

        return look

    def _supervise(self, number: int, begin: Begin, host: str, leave: Callable[[], bool]) -> int:
        """Run this node's supervisor to its end; when the pod is told to go, or `leave` says so, it stops cleanly."""
        address = f"[{host}]:{begin.port}" if ":" in host else f"{host}:{begin.port}"
        node, join_s = self._options.node, self._options.join_s
        options = NodeOptions(self._options.run, number, node, begin.nodes, address, join_s=join_s)
        argv = [sys.executable, "-m", "torchrelay_launch", "node", *options.argv()]
        mine = {TOKEN_VARIABLE: begin.token, environment.WORKDIR: self._options.workdir}
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PET_")}
        found = meeting.interfaces(os.environ.get("TORCHRELAY_POD_IP", ""))
        process = subprocess.Popen(argv, env=found | inherited | mine, stdin=subprocess.DEVNULL)
        told = False
        while (code := process.poll()) is None:
            if not told and (self._terminated or leave()):
                told = True
                process.send_signal(signal.SIGTERM)
            time.sleep(0.1)
        _reap()
        self._waiting_since, self._away_since = time.monotonic(), None
        return code if code >= 0 else 128 - code


def _reap() -> None:
    """Process 1 inherits what a killed supervisor leaves."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def take_part(argv: list[str], terminated: list[int]) -> int:
    """Take part in the run. Returns the pod's exit code."""
    try:
        options = parse(argv)
        return Pod(options, open_storage(options.run), terminated).run()
    except TorchrelayError as error:
        say(str(error))
        leave_words(str(error))
        return int(error.exit_code)
