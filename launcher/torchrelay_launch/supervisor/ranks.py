"""The rank processes of one start of torchrun on one node: finding them, and being told when one ends."""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from torchrelay.contract import reports
from torchrelay_launch import processes
from torchrelay_launch.supervisor.first_failure import Death


@dataclass
class Rank:
    """One rank's process. It is registered once it uses the runtime and takes signals."""

    rank: int
    local_rank: int | None
    pid: int
    registered: bool = False
    death: Death | None = None


class Ranks:
    """The ranks of this node, found below torchrun and in the reports folder, watched through pidfds."""

    def __init__(self, folder: Path, expected: int, on_death: Callable[[Rank], None]) -> None:
        self.by_pid: dict[int, Rank] = {}
        self.progress_at = 0.0  # when any registered rank last made progress, seconds since the epoch
        self._folder, self._expected, self._on_death = folder, expected, on_death
        self._descriptors: dict[int, int] = {}

    @property
    def registered(self) -> list[Rank]:
        return [one for one in self.by_pid.values() if one.registered]

    @property
    def running(self) -> list[Rank]:
        return [one for one in self.by_pid.values() if one.death is None]

    @property
    def all_registered(self) -> bool:
        """Whether every rank of this node takes signals."""
        return len(self.registered) >= self._expected

    @property
    def deaths(self) -> list[Death]:
        return [one.death for one in self.by_pid.values() if one.death is not None]

    def rank_of(self, local_rank: int) -> int | None:
        return next((one.rank for one in reversed(self.by_pid.values()) if one.local_rank == local_rank), None)

    def look(self, torchrun: int | None) -> None:
        """Find new ranks and new registrations. `torchrun`: its pid."""
        if torchrun is not None:
            self._find_children(torchrun)
        self._find_registrations()

    def close(self) -> None:
        """Stop watching: whoever ends from now on has been ended."""
        for descriptor in self._descriptors.values():
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        self._descriptors.clear()

    def _find_children(self, torchrun: int) -> None:
        for pid in processes.children(torchrun):
            if pid in self.by_pid:
                continue
            environment = processes.environment_of(pid)
            if environment.get("RANK", "").isdigit() and environment.get("LOCAL_RANK", "").isdigit():
                self._add(Rank(int(environment["RANK"]), int(environment["LOCAL_RANK"]), pid))

    def _find_registrations(self) -> None:
        for registration, touched_at in reports.registrations(self._folder).items():
            self.progress_at = max(self.progress_at, touched_at)
            if registration.pid not in self.by_pid:
                self._add(Rank(registration.rank, None, registration.pid))
            self.by_pid[registration.pid].registered = True

    def _add(self, rank: Rank) -> None:
        self.by_pid[rank.pid] = rank
        try:
            descriptor = os.pidfd_open(rank.pid)
        except OSError:
            self._ended(rank)
            return
        self._descriptors[rank.pid] = descriptor
        asyncio.get_running_loop().add_reader(descriptor, self._ended, rank)

    def _ended(self, rank: Rank) -> None:
        descriptor = self._descriptors.pop(rank.pid, None)
        if descriptor is not None:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        process = processes.look_at(rank.pid)  # a zombie, until torchrun looks, which it does ten times a second
        status = process.status if process and not process.running else None
        code = os.waitstatus_to_exitcode(status) if status is not None else None
        rank.death = Death(rank.rank, time.time(), code)
        self._on_death(rank)
