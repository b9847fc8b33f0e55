"""One node's supervisor, from its start to the attempt's end."""

import asyncio
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path

from torchrelay.contract import layout, records
from torchrelay.contract.errors import ConfigError, StorageError, SupersededError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import Heartbeat, StopRequest
from torchrelay.contract.storage import on_object_storage
from torchrelay_launch import processes
from torchrelay_launch.supervisor import member, messages
from torchrelay_launch.supervisor.coordinator import Coordinator, Policy
from torchrelay_launch.supervisor.first_failure import failure_of
from torchrelay_launch.supervisor.fork_client import ForkServer
from torchrelay_launch.supervisor.gang import Gang
from torchrelay_launch.supervisor.judge import Judge
from torchrelay_launch.supervisor.linux import Children, become_subreaper, kill_all_below
from torchrelay_launch.supervisor.member import Member
from torchrelay_launch.supervisor.messages import Message
from torchrelay_launch.supervisor.options import TOKEN_VARIABLE, NodeOptions
from torchrelay_launch.supervisor.output import NodeLog, Redactor
from torchrelay_launch.supervisor.plan import GangPlanner
from torchrelay_launch.supervisor.starter import Starter
from torchrelay_launch.supervisor.work import Work, check

POLL_S = 1.0  # between looks for a request to stop
OBJECT_STORAGE_POLL_S = 5.0
CLOSE_S = 20.0  # how long the last lines of the log may take
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
CANCEL_SIGNAL = signal.SIGQUIT


class NodeSupervisor:
    """The supervisor of one node. `early`: signals that came before the event loop ran."""

    def __init__(self, options: NodeOptions, work: Work, server: ForkServer | None, early: list[int]) -> None:
        self.options, self.work, self._early = options, work, early
        path = layout.node_log(options.attempt, options.node)
        self.log = NodeLog(work.storage, path, options.node, Redactor(work.secrets))
        self._children = Children()
        self._starter = Starter(self._children, server)
        self._scratch = Path(tempfile.mkdtemp(prefix=f"torchrelay-{options.attempt}-{options.node}-"))
        self._planner = GangPlanner(work, options, self._scratch)
        self._member: Member | None = None
        self._stopping: str | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._coordinator: Coordinator | None = None
        self._judge: Judge | None = None

    async def run(self) -> int:
        """Take part in the attempt until it ends. Returns the exit code. Raises: TorchrelayError."""
        become_subreaper()
        self._listen_to_signals()
        self._tasks.append(asyncio.create_task(self.log.keep_flushing()))
        self._hold_tether()
        limit_s = self._time_limit_s()
        if limit_s is not None:
            asyncio.get_running_loop().call_later(limit_s, self.stop, "stop", "the time limit is near")
        try:
            return await (self._run_first() if self.options.node == 0 else self._run_other())
        except Exception as error:  # noqa: BLE001 - whatever it is, nothing may be left behind, and the run must say it
            return await self._break_off(error)
        finally:
            self._starter.close()
            for task in self._tasks:
                task.cancel()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.log.close(), CLOSE_S)
            shutil.rmtree(self._scratch, ignore_errors=True)

    def stop(self, kind: str, reason: str) -> None:
        """Stop the whole attempt, on all nodes; safe to call again and again."""
        if self._stopping in ("cancel", kind):
            return
        self._stopping = kind
        self.log.say(f"{'stopping' if kind == 'stop' else 'cancelled'}: {reason}")
        if self._judge is not None:
            self._judge.stop_reason = reason
        if self._coordinator is not None:
            self._spawn(self._coordinator.stop(kind))
        if self._member is not None:
            self._spawn(self._member.stop(kind))

    async def _break_off(self, error: Exception) -> int:
        """End what runs here, and say why."""
        failure = failure_of(error, self.options.node)
        self.log.say(f"{failure.error}\n{failure.traceback}".strip())
        await kill_all_below(self._children)
        if self._judge is not None:
            return await asyncio.to_thread(self._judge.conclude, failure)
        return failure.exit_code

    async def _run_first(self) -> int:
        judge = Judge(self.work.storage, self.options.attempt, self.work.job.restarts.on_failure, self.log.say)
        self._judge = judge
        check(self.work.job, self.work.workdir)
        if judge.superseded():
            raise SupersededError("a newer attempt owns the run")
        policy = Policy(self._planner.port, judge.judge, judge.missing)
        address = self.options.address[0]
        coordinator = Coordinator(self.options.nodes, os.environ.get(TOKEN_VARIABLE, ""), address, policy)
        self._coordinator = coordinator
        judge.stopping = lambda: coordinator.stopping
        await asyncio.to_thread(self._beat)
        self._spawn(self._keep_beating())
        self._spawn(self._poll_stop())
        server = await self._serve(coordinator)
        mine, theirs = messages.queue_links()
        coordinator.admit(0, theirs)
        self._member = Member(mine, self._make_gang, self.log.say)
        if self._stopping:
            await coordinator.stop(self._stopping)
        serving = asyncio.create_task(self._member.serve())
        conducting = asyncio.create_task(coordinator.conduct(self.options.join_s))
        try:
            await asyncio.wait({serving, conducting}, return_when=asyncio.FIRST_EXCEPTION)
            return await (serving if serving.done() else conducting)
        finally:
            coordinator.close()
            if server is not None:
                server.close()

    async def _run_other(self) -> int:
        check(self.work.job, self.work.workdir)
        hello: Message = {"type": "hello", "node": self.options.node, "token": os.environ.get(TOKEN_VARIABLE, "")}

        async def stopped() -> bool:
            return self._stopping is not None

        link = await member.connect(*self.options.address, hello, self.options.join_s, stopped)
        if link is None:
            return ExitCode.PREEMPTED
        self._member = Member(link, self._make_gang, self.log.say)
        if self._stopping:
            await self._member.stop(self._stopping)
        try:
            return await self._member.serve()
        finally:
            link.close()

    async def _serve(self, coordinator: Coordinator) -> asyncio.Server | None:
        """Listen for the other nodes, if there are any."""
        if self.options.nodes == 1:
            return None
        limit = messages.LONGEST_LINE_BYTES
        if self.options.coordinator_fd is not None:
            listening = socket.socket(fileno=self.options.coordinator_fd)
            return await asyncio.start_server(coordinator.greet, sock=listening, limit=limit)
        try:
            return await asyncio.start_server(coordinator.greet, "", self.options.address[1], limit=limit)
        except OSError as error:
            raise ConfigError(f"cannot listen on port {self.options.address[1]}: {error.strerror}") from error

    def _make_gang(self, message: Message) -> Gang:
        restart = int(str(message["restart"]))
        plan = self._planner.plan(restart, str(message["master_addr"]), int(str(message["master_port"])))
        self.log.say(
            f"starting {plan.ranks} rank{'s' * (plan.ranks > 1)}" + (f", restart {restart}" if restart else "")
        )
        return Gang(plan, self._starter, self._children, self.log)

    def _listen_to_signals(self) -> None:
        loop = asyncio.get_running_loop()
        self._children.install(loop)
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop, "stop", f"got {number.name}")
        loop.add_signal_handler(CANCEL_SIGNAL, self.stop, "cancel", f"got {CANCEL_SIGNAL.name}")
        for early in self._early:
            kind = "cancel" if early == CANCEL_SIGNAL else "stop"
            self.stop(kind, f"got {signal.Signals(early).name}")

    def _hold_tether(self) -> None:
        """A pipe from the launcher: its end means that the launcher died, a byte that it let go on purpose."""
        descriptor = self.options.tether
        if descriptor is None:
            return
        loop = asyncio.get_running_loop()

        def heard() -> None:
            loop.remove_reader(descriptor)
            if not os.read(descriptor, 1):
                self.stop("stop", "the launcher is gone")

        loop.add_reader(descriptor, heard)

    def _time_limit_s(self) -> float | None:
        """When to begin the clean stop, so that it is over at the limit."""
        limit = self.work.job.resources.time_limit
        return None if limit is None else limit - min(self.work.job.restarts.grace, limit / 2)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(Heartbeat.interval_on(self.work.storage))
            with suppress(StorageError):
                await asyncio.to_thread(self._beat)

    def _beat(self) -> None:
        me = processes.look_at(os.getpid())
        beat = Heartbeat(
            at=time.time(),
            pid=os.getpid(),
            host=socket.gethostname(),
            process_started=me.started if me else 0,
            boot_id=processes.boot_id(),
            restart=self._coordinator.restart if self._coordinator else 0,
            interval_s=Heartbeat.interval_on(self.work.storage),
        )
        self.work.storage.replace(layout.attempt_file(self.options.attempt, "heartbeat"), records.dump(beat))

    async def _poll_stop(self) -> None:
        path = layout.attempt_file(self.options.attempt, "stop")
        while True:
            with suppress(StorageError):
                request = await asyncio.to_thread(records.read, self.work.storage, StopRequest, path)
                if request is not None:
                    self.stop("cancel" if request.kind == "cancel" else "stop", f"asked to by {request.by}")
            await asyncio.sleep(OBJECT_STORAGE_POLL_S if on_object_storage(self.work.storage) else POLL_S)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        self._tasks.append(asyncio.create_task(work))
