"""A rank among the others: who it is, its device, the process group, and small talk between ranks without pickle."""

import contextlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, PrefixStore, Store
from torch.distributed.distributed_c10d import _get_default_store
from torch.distributed.rendezvous import rendezvous

from torchrelay.contract import environment, errors
from torchrelay.contract.errors import ConfigError, PeerLostError, TorchrelayError
from torchrelay.contract.settings import Json

TALK_TIMEOUT_S = 300.0  # for what the others should say without having computed anything first
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_LAST_WORDS_S = 10.0
_LOST = "lost"  # the store's key under which a failing rank leaves word


@dataclass(frozen=True)
class World:
    """One rank's view. `store` and `side_group` (gloo, beside the process group for gradients) are None when alone."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    node: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    store: Store | None = None
    side_group: dist.ProcessGroup | None = None
    _talks: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def from_main(self, ask: Callable[[], Json], timeout_s: float = TALK_TIMEOUT_S) -> Json:
        """What `ask` says on rank 0, where alone it is called; an error of torchrelay's is raised on all ranks alike.

        Collective: yes
        """
        if not self.is_main:
            return self._hear(f"talk/{next(self._talks)}", timeout_s)
        try:
            said: dict[str, Json] = {"said": ask()}
        except TorchrelayError as error:
            key = self._say({"error": type(error).__name__, "text": str(error)})
            self._wait_until_heard(key)
            raise
        self._say(said)
        return said["said"]

    def broadcast_json(self, value: Json, timeout_s: float = TALK_TIMEOUT_S) -> Json:
        """Rank 0's value, on every rank.

        Collective: yes
        """
        return self.from_main(lambda: value, timeout_s)

    def sum(self, values: torch.Tensor | Sequence[float]) -> torch.Tensor:
        """Sums over all ranks, in float64 on the CPU, of `values`: any shape, the same on all ranks.

        Collective: yes
        """
        return self.begin_sum(values)()

    def begin_sum(self, values: torch.Tensor | Sequence[float]) -> Callable[[], torch.Tensor]:
        """The same, under way while the caller goes on: what is returned waits for it.

        Collective: yes
        """
        total = torch.as_tensor(values).detach().to("cpu", torch.float64, copy=True)
        if self.side_group is None:
            return lambda: total
        work = dist.all_reduce(total, group=self.side_group, async_op=True)

        def wait() -> torch.Tensor:
            work.wait()
            return total

        return wait

    def barrier(self, timeout_s: float) -> None:
        """Wait until all ranks are here. Raises: PeerLostError when they are not within the time.

        Collective: yes
        """
        if self.store is None:
            return
        name = f"barrier/{next(self._talks)}"
        if self.store.add(f"{name}/here", 1) == self.world_size:
            self.store.set(f"{name}/go", "1")
        self.wait(f"{name}/go", timeout_s)
        if self.store.add(f"{name}/gone", 1) == self.world_size:
            self.store.set(f"{name}/end", "1")
        if self.is_main:  # the store may live in this process, and the others still ask it
            self.wait(f"{name}/end", timeout_s)

    def wait(self, key: str, timeout_s: float) -> None:
        """Wait for a key of the store. Raises: PeerLostError when it does not come, or a rank said that it fails."""
        assert self.store is not None
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self.store.wait([key], timedelta(seconds=min(1.0, timeout_s)))
            except dist.DistStoreError as error:
                if self.store.check([_LOST]):
                    lost = self.store.get(_LOST).decode()
                    raise PeerLostError(f"rank {lost} failed while rank {self.rank} waited for it") from error
                if time.monotonic() > deadline:
                    raise PeerLostError(f"rank {self.rank} waited {timeout_s:.0f} s for the other ranks") from error
            else:
                return

    def tell_failing(self) -> None:
        """Say that this rank is about to end, so that whoever waits on the store does not wait in vain."""
        if self.store is not None:
            self.store.set(_LOST, str(self.rank))

    def _say(self, message: dict[str, Json]) -> str:
        key = f"talk/{next(self._talks)}"
        if self.store is not None:
            self.store.set(key, json.dumps(message))
        return key

    def _wait_until_heard(self, key: str) -> None:
        """Stay for a moment: this process is about to end, and the store with it, if it lives here."""
        if self.store is not None:
            with contextlib.suppress(dist.DistStoreError):
                self.store.wait([f"{key}/heard"], timedelta(seconds=_LAST_WORDS_S))

    def _hear(self, key: str, timeout_s: float) -> Json:
        assert self.store is not None
        self.wait(key, timeout_s)
        message = json.loads(self.store.get(key))
        if "error" in message:
            if self.store.add(f"{key}/ears", 1) == self.world_size - 1:
                self.store.set(f"{key}/heard", "1")
            raise getattr(errors, message["error"], TorchrelayError)(message["text"])
        said: Json = message["said"]
        return said


@dataclass(frozen=True)
class Wanted:
    """What the spec says about devices. `gpus` is None when nothing was said: then use GPUs if every rank has one."""

    process_group: str = "auto"  # auto, gloo or nccl
    gpus: int | None = None
    timeout_s: float = 1800.0  # of collectives; longer than the watchdog's, which knows more


def join(wanted: Wanted) -> World:
    """Make the process group, or take the one that there is, and say who this rank is.

    Collective: yes
    Raises: ConfigError for a device or a backend that this machine does not have.
    """
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    node = int(os.environ.get(environment.NODE, os.environ.get("GROUP_RANK", "0")))
    device = choose_device(wanted, local_rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    timeout = timedelta(seconds=wanted.timeout_s)
    store = _init_process_group(wanted, device, timeout)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    if world_size == 1:
        return World(rank, world_size, local_rank, node, device)
    side_group = dist.new_group(backend="gloo", timeout=timeout)
    assert isinstance(side_group, dist.ProcessGroup)
    return World(rank, world_size, local_rank, node, device, PrefixStore("torchrelay", store), side_group)


def choose_device(wanted: Wanted, local_rank: int) -> torch.device:
    """The device of a rank. Raises: ConfigError, with what to change, if it is not there."""
    visible = torch.cuda.device_count() if wanted.gpus != 0 else 0
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    use_gpu = wanted.gpus > 0 if wanted.gpus is not None else visible >= local_world_size
    if wanted.process_group == "nccl" and not (use_gpu and visible):
        raise ConfigError(
            "process_group: nccl needs GPUs, and torch sees none to use here; set resources.gpus_per_node on a machine "
            "that has them, or process_group: gloo"
        )
    if not use_gpu:
        return torch.device("cpu")
    if local_rank >= visible:
        raise ConfigError(
            f"resources.gpus_per_node is {wanted.gpus}, but torch sees {visible} GPUs here and none is left for local "
            f"rank {local_rank}; lower gpus_per_node or procs_per_node, or check CUDA_VISIBLE_DEVICES"
        )
    return torch.device("cuda", local_rank)


def _init_process_group(wanted: Wanted, device: torch.device, timeout: timedelta) -> Store:
    if dist.is_initialized():
        return _get_default_store()  # there is no public way
    if os.environ.get("MASTER_ADDR", "127.0.0.1") in _LOOPBACK:
        # All ranks are on this machine; its host name may resolve to an address that cannot be reached.
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    nccl = wanted.process_group in ("auto", "nccl") and device.type == "cuda"
    store, rank, world_size = _rendezvous(timeout)
    dist.init_process_group(
        "nccl" if nccl else "gloo",
        store=PrefixStore("main", store),
        rank=rank,
        world_size=world_size,
        timeout=timeout,
        device_id=device if nccl else None,
    )
    return store


def _rendezvous(timeout: timedelta) -> tuple[Store, int, int]:
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        return HashStore(), 0, 1
    store, rank, world_size = next(rendezvous("env://", timeout=min(timeout, timedelta(seconds=TALK_TIMEOUT_S))))
    return store, rank, world_size
