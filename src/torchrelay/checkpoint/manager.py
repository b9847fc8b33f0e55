"""Saving and restoring a run's state: all ranks together, committed whole or not at all.

A save goes: every rank copies its share, and from there on training may go on; every rank writes its files, durably,
and reports sizes and checksums to rank 0; rank 0 makes sure that no newer gang owns the run, creates the manifest, and
tells all. Until the manifest is there, there is no checkpoint.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from torchrelay.checkpoint.exchange import Exchange, World
from torchrelay.checkpoint.pending import Pending
from torchrelay.checkpoint.places import places_of
from torchrelay.checkpoint.restoring import Restored, Restoring
from torchrelay.checkpoint.staging import Staging
from torchrelay.checkpoint.state import encode
from torchrelay.checkpoint.writer import Staged, Written, plan, stage, staged_bytes, write_rank
from torchrelay.contract import layout, manifest_format, records
from torchrelay.contract.errors import ConfigError, StorageError, SupersededError, TorchrelayError
from torchrelay.contract.layout import MANIFEST, Writer
from torchrelay.contract.manifest import Manifest, private_prefix, read_manifest
from torchrelay.contract.manifest_format import files_from_json, tensor_from_json, tensor_to_json
from torchrelay.contract.retention import Retention
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Storage
from torchrelay.contract.training import Checkpoint

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint: its folder below the run, bytes over all ranks, and the seconds from start to commit."""

    folder: str
    step: int
    bytes: int
    seconds: float


class CheckpointManager:
    """Saves and restores for one gang of ranks. Every rank has one and makes the same calls in the same order."""

    def __init__(
        self,
        storage: Storage,
        writer: Writer,
        world: World,
        policy: Checkpoint,
        about: Mapping[str, Json],
        timeout_s: float = 600.0,
    ) -> None:
        """`about` goes into each manifest as it is: versions, the spec's digest. `timeout_s`: how long rank 0 waits."""
        self._storage, self._writer, self._world = storage, writer, world
        self._retention = Retention(storage, writer, policy)
        self._about = dict(about)
        self._group: ProcessGroup | None = getattr(world, "side_group", None)
        self._exchange = Exchange(_apart(world), f"checkpoints/{writer}", timeout_s)
        self._staging = Staging()
        self._under_way: Pending[Saved] | None = None
        self._last: Saved | None = None
        self._failed: set[str] = set()

    @property
    def buffer_bytes(self) -> int:
        """Host memory that saving takes on this rank beside the state itself."""
        return self._staging.size_bytes

    def save(
        self,
        step: int,
        shared: Mapping[str, Any],
        private: Mapping[str, Any],
        metrics: Mapping[str, float],
        *,
        samples: int | None = None,
        from_rank_0: Collection[str] = (),
    ) -> Saved:
        """Commit the state after `step` steps. Returns when it is durable; a step is saved once, then left alone.

        `shared` is the same on all ranks, and each writes a part of its tensors; `private` is each rank's own. Tensors
        that differ between ranks although they are shared, such as BatchNorm's statistics, are named in `from_rank_0`.

        Collective: yes. Raises: the same on all ranks: StorageError if a rank could not write (training can go on),
        SupersededError if a newer gang owns the run, ConfigError for a state that cannot be saved.
        """
        self._wait()
        if self._last is not None and self._last.step == step:
            return self._last
        return self._saving(_Head(step, samples, dict(metrics)), shared, private, from_rank_0)()

    def begin(
        self,
        step: int,
        shared: Mapping[str, Any],
        private: Mapping[str, Any],
        metrics: Mapping[str, float],
        *,
        samples: int | None = None,
        from_rank_0: Collection[str] = (),
    ) -> Pending[Saved]:
        """Like `save`, but returns as soon as the state is copied; the rest is done behind the training.

        Waits for the save before, if that is still under way: there is one buffer. What `save` raises, the result
        raises, and it is the same on all ranks, at whatever moment each of them asks.

        Collective: yes
        """
        self._wait()
        work = self._saving(_Head(step, samples, dict(metrics)), shared, private, from_rank_0)
        self._under_way = Pending(work, f"checkpoint of step {step}", yielding=True)
        return self._under_way

    def prepare(self, shared: Mapping[str, Any], private: Mapping[str, Any], from_rank_0: Collection[str] = ()) -> None:
        """Have memory for a state like this one ready before the first save. Raises: ConfigError as `save` does."""
        rank = self._world.rank
        state = encode(shared), encode(private, private_prefix(rank))
        agreed = plan(state[0], self._world.world_size, from_rank_0)
        device = next((tensor.device for tensor in state[0].tensors.values() if tensor.is_cuda), None)
        self._staging.prepare(staged_bytes(rank, agreed, state[1]), device)

    def restore(self, step: int | None = None, *, into: Mapping[str, Any] | None = None) -> Restored | None:
        """The newest good checkpoint, or the one of a step; None if the run has none yet.

        Damaged ones are named in a warning, marked, kept, and passed over. `into`: a part of what is shared. Where its
        tensors are on the host and as those saved, they are filled, and in what is returned; that saves time and
        memory. What is in them after an error is undefined.

        Collective: yes. Raises: the same on all ranks: CheckpointError if all are damaged or there is none of that
        step; StorageError if the storage cannot be read.
        """
        self._wait()
        places = places_of(encode(into or {}).tensors)
        return Restoring(self._storage, self._writer, self._world, self._exchange, self._group).newest(step, places)

    def _wait(self) -> None:
        if self._under_way is not None:
            self._under_way.wait()
            self._under_way = None

    def _saving(
        self, head: "_Head", shared: Mapping[str, Any], private: Mapping[str, Any], from_rank_0: Collection[str]
    ) -> Callable[[], Saved]:
        """Copy the state; the rest of the save, to be called on any thread."""
        started = time.monotonic()
        staged = self._stage(shared, private, from_rank_0)
        return lambda: self._save(head, staged, started)

    def _stage(
        self, shared: Mapping[str, Any], private: Mapping[str, Any], from_rank_0: Collection[str]
    ) -> Staged | BaseException:
        """What this rank writes, copied, or why it cannot be: the other ranks must hear of it in the exchange."""
        rank = self._world.rank
        try:
            state = encode(shared), encode(private, private_prefix(rank))
            return stage(self._staging, rank, plan(state[0], self._world.world_size, from_rank_0), state)
        except BaseException as error:  # noqa: BLE001  # raised again by `_write`
            return error

    def _save(self, head: "_Head", staged: Staged | BaseException, started: float) -> Saved:
        written = Written(layout.checkpoint_folder(head.step, self._writer))
        try:
            answer = self._exchange.agree(
                lambda: self._write(written, staged), lambda reports: self._commit(written, reports, head)
            )
        except BaseException:
            self._failed.add(written.folder)
            if self._exchange.settled:  # without rank 0's word the manifest may still come
                self._clean(written)
            raise
        self._last = Saved(written.folder, head.step, answer["bytes"], time.monotonic() - started)
        if self._world.rank == 0:
            self._retain()
        return self._last

    def _write(self, written: Written, staged: Staged | BaseException) -> Json:
        self._check_fencing()  # before anything is written, and again before the commit
        if isinstance(staged, BaseException):
            raise staged
        write_rank(self._storage, written, staged)
        return _report(written, staged)

    def _commit(self, written: Written, reports: list[Any], head: "_Head") -> Json:
        """On rank 0, once all ranks' files are durable. Raises: SupersededError, StorageError, ConfigError."""
        for rank, report in enumerate(reports):
            if report["plan"] != reports[0]["plan"]:
                raise ConfigError(
                    f"rank {rank} tracks other tensors than rank 0, or of other shapes; what differs is private state"
                )
        manifest = Manifest(
            step=head.step,
            writer=self._writer,
            world_size=self._world.world_size,
            created_at=time.time(),
            files=files_from_json({name: entry for report in reports for name, entry in report["files"].items()}),
            tensors={
                name: tensor_from_json(name, entry) for report in reports for name, entry in report["tensors"].items()
            },
            samples=head.samples,
            metrics=head.metrics,
            about=self._about,
        )
        self._check_fencing()
        self._create_manifest(written.folder, manifest)
        self._look_back(written.folder, manifest)
        return {"bytes": manifest.size_bytes}

    def _look_back(self, folder: str, manifest: Manifest) -> None:
        """See that no newer attempt has come, and taken this save for what a dead one left, between look and commit.

        What is whole then stays: the newer one may have restored it. Raises: SupersededError.
        """
        try:
            with contextlib.suppress(StorageError):  # it is committed, whatever cannot be looked at now
                self._check_fencing()
        except SupersededError:
            sizes = {name: self._storage.size(f"{folder}/{name}") for name in manifest.files}
            if any(sizes[name] != entry.size for name, entry in manifest.files.items()):
                self._storage.delete(f"{folder}/{MANIFEST}")
            raise

    def _check_fencing(self) -> None:
        newest = records.newest_writer(self._storage)
        if newest is not None and newest > self._writer:
            own = self._writer
            raise SupersededError(
                f"attempt {own.attempt} (restart {own.restart}) must not save any more: attempt {newest.attempt} "
                f"(restart {newest.restart}) owns the run at {self._storage.url}"
            )

    def _create_manifest(self, folder: str, manifest: Manifest) -> None:
        path = f"{folder}/{MANIFEST}"
        try:
            self._storage.create(path, manifest_format.dump(manifest))
        except FileExistsError:
            there = replace(read_manifest(self._storage, folder), created_at=manifest.created_at)
            if manifest_format.dump(there) != manifest_format.dump(manifest):  # else by an earlier try of this save
                raise SupersededError(f"{path} is there already: another process writes as {self._writer}") from None
        except BaseException:
            # It may be there although the call failed. The other ranks have not been told yet and keep their files.
            with contextlib.suppress(TorchrelayError):
                self._storage.delete(path)
            raise

    def _clean(self, written: Written) -> None:
        """Delete this rank's files of a save that failed, unless a manifest that names them is there."""
        try:
            if self._storage.size(f"{written.folder}/{MANIFEST}") is None:
                for name in written.begun:
                    self._storage.delete(f"{written.folder}/{name}")
        except StorageError as error:
            logger.warning("leftovers of a failed save stay in %s for now: %s", written.folder, error)

    def _retain(self) -> None:
        """After a commit, on rank 0. What cannot be deleted now is deleted after a later commit."""
        try:
            for folder in sorted(self._failed):  # all ranks have left it: they have reported for a later save
                if self._storage.size(f"{folder}/{MANIFEST}") is None:
                    self._storage.delete(folder)
            self._failed.clear()
            gone = self._retention.apply()
        except (StorageError, ConfigError) as error:
            logger.warning("old checkpoints are kept for now: %s", error)
        else:
            logger.debug("deleted %s", gone)


@dataclass(frozen=True)
class _Head:
    """What rank 0 alone knows of a checkpoint."""

    step: int
    samples: int | None
    metrics: dict[str, float]


@dataclass(frozen=True)
class _Apart:
    """A rank's world with a connection to the store of its own: waiting on it keeps nobody else from the store."""

    rank: int
    world_size: int
    store: Any


def _apart(world: World) -> World:
    if world.store is None:
        return world
    return _Apart(world.rank, world.world_size, world.store.clone())


def _report(written: Written, staged: Staged) -> Json:
    """What a rank tells rank 0 of its files. The shared tensors are rank 0's to tell."""
    entries = {**(staged.agreed.entries if staged.rank == 0 else {}), **staged.private}
    return {
        "plan": staged.agreed.fingerprint,
        "files": {name: asdict(entry) for name, entry in written.files.items()},
        "tensors": {name: tensor_to_json(entry) for name, entry in entries.items()},
    }
