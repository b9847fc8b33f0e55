"""One start of torchrun on this node: watching its ranks, stopping them cleanly, and leaving no process of it."""

import asyncio
import dataclasses
import logging
import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from torchrelay.contract import reports
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import Failure
from torchrelay_launch import processes
from torchrelay_launch.supervisor import first_failure, torchrun_report
from torchrelay_launch.supervisor.fork_client import Command
from torchrelay_launch.supervisor.linux import Children, kill_all_below
from torchrelay_launch.supervisor.output import NodeLog, TorchrunOutput
from torchrelay_launch.supervisor.rank_output import RankOutput
from torchrelay_launch.supervisor.ranks import Rank, Ranks
from torchrelay_launch.supervisor.starter import Starter
from torchrelay_launch.supervisor.store_host import StoreHost

logger = logging.getLogger(__name__)

LOOK_S = 0.1
CALM_LOOK_S = 0.5  # once all ranks are there: their ends are heard of at once
DUMP_S = 2.0  # for ranks to print their stacks
PEER_S = 1.0  # for the rank that failed first to say so, when one that only lost it was faster


class End(StrEnum):
    """How a gang ended on one node."""

    COMPLETED = "completed"
    STOPPED = "stopped"  # cleanly, on request
    FAILED = "failed"
    KILLED = "killed"  # ended by its supervisor: cancelled, aborted because of another node, or not yet attached


@dataclass(frozen=True)
class Ending:
    """What one node tells of the end of a gang. `at`: when it was seen, in seconds since the epoch."""

    end: End
    at: float
    failure: Failure | None = None
    port_taken: bool = False


@dataclass(frozen=True)
class GangPlan:
    """What to start and how to treat it."""

    node: int
    argv: Sequence[str]
    env: Mapping[str, str]
    workdir: str
    reports: Path
    logs: Path
    ranks: int  # on this node
    first_rank: int | None  # rank of local rank 0 where torchrun does not choose it
    store_host: StoreHost | None  # None on node 0, which is it
    uses_runtime: bool  # known beforehand: the built-in trainer
    torchrun_restarts: bool  # whether torchrun itself may start ranks again
    grace_s: float
    watchdog_s: float


class Gang:
    """One start of torchrun. `run` returns when nothing of it is left; the other methods only ask for an end."""

    def __init__(self, plan: GangPlan, starter: Starter, children: Children, log: NodeLog) -> None:
        self.plan = plan
        self._starter, self._children, self._log = starter, children, log
        self._over = asyncio.Event()
        self._killed = self._stopping = False
        self._failure: Failure | None = None
        self._failed_at: float | None = None
        self._torchrun = TorchrunOutput(log)
        self._ranks = Ranks(plan.reports, plan.ranks, self._rank_ended)
        self._output = RankOutput(plan.logs, log, self._rank_of)
        self._guard = 0  # its pid, once it is started

    async def run(self) -> Ending:
        """Start torchrun and see it to its end. Raises: OSError if it cannot be started."""
        if self._over.is_set():
            return Ending(End.KILLED, time.time())
        pipe, output = os.pipe()
        self._torchrun.attach(pipe)
        parts = (self._keep_looking(), self._start_and_await(output), self._over.wait())
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # raises what went wrong here
        finally:
            for task in tasks:
                task.cancel()
            self._ranks.close()
            await kill_all_below(self._children, spare=self._starter.idle)
            self._torchrun.drain(pipe)
            await self._output.drain()
        return self._ending()

    def stop(self) -> None:
        """Ask the ranks to save and stop; asked again it does nothing. They are killed after the grace."""
        if self._stopping or self._over.is_set():
            return
        self._stopping = True
        self._ranks.look(self._torchrun_pid())
        asyncio.get_running_loop().call_later(self.plan.grace_s, self._out_of_patience)
        if self._ranks.all_registered:
            self._send_to_ranks(signal.SIGTERM)
        elif self.plan.uses_runtime or self._ranks.registered or not self._ranks.by_pid:
            self.kill()  # not all have come to their loop, so no step can have been made: nothing is lost
        else:
            processes.send(self._torchrun_pid() or self._guard, signal.SIGTERM)  # passes it on to plain scripts

    def kill(self) -> None:
        """End it now."""
        self._killed = True
        self._over.set()

    async def dump_and_kill(self) -> None:
        """Let the ranks print their stacks, then end it."""
        self._send_to_ranks(signal.SIGUSR2)
        await asyncio.sleep(DUMP_S)
        self.kill()

    def _send_to_ranks(self, number: signal.Signals) -> None:
        for rank in self._ranks.registered:
            if rank.death is None:
                processes.send(rank.pid, number)

    def _torchrun_pid(self) -> int | None:
        return next(iter(processes.children(self._guard)), None) if self._guard else None

    def _rank_of(self, local_rank: int) -> int | None:
        if self.plan.first_rank is not None:
            return self.plan.first_rank + local_rank
        return self._ranks.rank_of(local_rank)

    async def _start_and_await(self, output: int) -> None:
        plan = self.plan
        command = Command(plan.argv, plan.env, plan.workdir, plan.grace_s)
        self._guard = await self._starter.start(command, output, self._store_host_listens)
        await self._children.ended(self._guard)
        self._ranks.look(None)
        self._over.set()

    async def _store_host_listens(self) -> None:
        host = self.plan.store_host
        if host is not None and not await host.wait():
            self._log.say(f"torchrun of node 0 does not listen at {host}; torchrun goes on trying to reach it")

    async def _keep_looking(self) -> None:
        while True:
            self._ranks.look(self._torchrun_pid())
            while self._output.read_on():
                await asyncio.sleep(0)
            await self._watch_progress()
            await asyncio.sleep(CALM_LOOK_S if len(self._ranks.running) >= self.plan.ranks else LOOK_S)

    async def _watch_progress(self) -> None:
        """Only of ranks that use the runtime: what others do is not known."""
        silent_s = time.time() - self._ranks.progress_at
        if not self._ranks.all_registered or self._stopping or silent_s < self.plan.watchdog_s:
            return
        self._fail(first_failure.no_progress(silent_s, self.plan.node))
        await self.dump_and_kill()

    def _rank_ended(self, rank: Rank) -> None:
        """A rank's process has ended: a failure ends the gang at once, rather than after torchrun's 30 s."""
        torchrun = self._torchrun_pid()
        if torchrun is None or not processes.running(torchrun):
            rank.death = None  # only followed torchrun's own end
            return
        if self._over.is_set():
            return
        if not (self.plan.uses_runtime or self._ranks.registered):
            if self._all_ended():
                self._over.set()
            return
        mine = next((one for one in reports.reports(self.plan.reports) if one.rank == rank.rank), None)
        code = rank.death.exit_code if rank.death else None
        if (mine is None and not code) or (mine is not None and mine.exit_code in first_failure.CLEAN and not code):
            return
        if mine is not None and mine.failure is not None and mine.failure.peer_lost:
            asyncio.get_running_loop().call_later(PEER_S, self._over.set)
        else:
            self._over.set()

    def _all_ended(self) -> bool:
        """Whether a plain script's ranks are all gone, by a failure that is known: torchrun needs a second more."""
        deaths = self._ranks.deaths
        if self.plan.torchrun_restarts or len(deaths) < self.plan.ranks:
            return False
        return min(deaths, key=lambda one: one.at).exit_code not in (None, 0, -signal.SIGTERM)

    def _out_of_patience(self) -> None:
        if not self._over.is_set():
            grace = f"{self.plan.grace_s:g} s"
            error = f"the ranks of node {self.plan.node} did not stop within restarts.grace ({grace}) and were killed"
            self._fail(Failure(error, ExitCode.KILLED, node=self.plan.node))
            self.kill()

    def _fail(self, failure: Failure) -> None:
        if self._failure is None:
            self._failure, self._failed_at = failure, time.time()

    def _ending(self) -> Ending:
        now = time.time()
        if self._failure is not None:
            return Ending(End.FAILED, self._failed_at or now, self._failure)
        found = reports.reports(self.plan.reports)
        failing = [one for one in found if one.exit_code not in first_failure.CLEAN]
        code = self._children.code(self._guard)
        if self._killed and not failing:
            return Ending(End.KILLED, now)
        if code == 0 and not failing:
            stopped = any(one.exit_code == ExitCode.PREEMPTED for one in found)
            return Ending(End.STOPPED if stopped else End.COMPLETED, now)
        if self._stopping and not failing and self._ended_by_stop():
            return Ending(End.STOPPED, now)
        return self._failed(found, code, now)

    def _ended_by_stop(self) -> bool:
        """Plain scripts end as they like when they get SIGTERM; those that use the runtime end well, or by it."""
        codes = {death.exit_code for death in self._ranks.deaths}
        return not self._ranks.registered or codes <= {0, None, -signal.SIGTERM}

    def _failed(self, found: list[reports.RankReport], code: int | None, now: float) -> Ending:
        lines = list(self._torchrun.lines)
        evidence = first_failure.Evidence(
            node=self.plan.node,
            reports=found,
            deaths=self._ranks.deaths,
            torchrun_code=first_failure.exit_code_of(code) if code is not None else 1,
            torchrun_lines=lines,
            stderr=self._output.stderr,
        )
        failure = first_failure.first_failure(evidence)
        times = [one.at for one in found if one.failure] + [one.at for one in self._ranks.deaths if one.exit_code]
        hidden = dataclasses.replace(
            failure,
            error=self._log.redact.text(failure.error),
            traceback=self._log.redact.text(failure.traceback),
        )
        taken = failure.rank is None and torchrun_report.port_taken(lines)
        return Ending(End.FAILED, min(times, default=now), hidden, port_taken=taken)
