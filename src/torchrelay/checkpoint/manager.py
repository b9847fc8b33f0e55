"""Saving and restoring a run's state: all ranks together, committed whole or not at all.

A save goes: every rank writes its files, durably, and reports sizes and checksums to rank 0; rank 0 makes sure that no
newer gang owns the run, creates the manifest, and tells all. Until the manifest is there, there is no checkpoint.
"""

import contextlib
import json
import logging
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torchrelay.checkpoint import reader
from torchrelay.checkpoint.exchange import Exchange, World
from torchrelay.checkpoint.state import Encoded, decode, encode
from torchrelay.checkpoint.writer import Plan, Written, plan, private_entries, write_rank
from torchrelay.contract import layout, manifest_format, records
from torchrelay.contract.errors import CheckpointError, ConfigError, StorageError, SupersededError, TorchrelayError
from torchrelay.contract.layout import MANIFEST, STATE, Writer
from torchrelay.contract.manifest import (
    DAMAGED,
    Manifest,
    committed,
    owner,
    private_prefix,
    rank_file,
    read_manifest,
)
from torchrelay.contract.manifest_format import files_from_json, tensor_from_json, tensor_to_json
from torchrelay.contract.retention import retain
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Storage
from torchrelay.contract.training import Checkpoint

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint: its folder below the run, bytes over all ranks, and how long this rank was at it."""

    folder: str
    step: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Restored:
    """What a checkpoint held, on the host. `private` is None if the checkpoint has nothing of this rank's."""

    step: int
    folder: str
    shared: dict[str, Any]
    private: dict[str, Any] | None
    world_size: int  # of the gang that saved it
    metrics: dict[str, float]
    samples: int | None
    about: dict[str, Json]


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
        """`about` goes into each manifest as it is: versions, the spec's digest. `timeout_s`: how long ranks wait."""
        self._storage, self._writer, self._world, self._policy = storage, writer, world, policy
        self._about = dict(about)
        self._exchange = Exchange(world, f"checkpoints/{writer}", timeout_s)
        self._last: Saved | None = None
        self._failed: set[str] = set()

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
        if self._last is not None and self._last.step == step:
            return self._last
        started = time.monotonic()
        written = Written(layout.checkpoint_folder(step, self._writer))
        try:
            answer = self._exchange.agree(
                lambda: self._write(written, shared, private, from_rank_0),
                lambda reports: self._commit(written, reports, _Head(step, samples, dict(metrics))),
            )
        except BaseException:
            self._failed.add(written.folder)
            if self._exchange.settled:  # without rank 0's word the manifest may still come
                self._clean(written)
            raise
        self._last = Saved(written.folder, step, answer["bytes"], time.monotonic() - started)
        if self._world.rank == 0:
            self._retain()
        return self._last

    def restore(self, step: int | None = None) -> Restored | None:
        """The newest good checkpoint, or the one of a step; None if the run has none yet.

        Damaged ones are named in a warning, marked, kept, and passed over.

        Collective: yes. Raises: the same on all ranks: CheckpointError if all are damaged or there is none of that
        step; StorageError if the storage cannot be read.
        """
        found = self._exchange.agree(lambda: None, lambda _: self._candidates(step))
        problems = []
        for folder in found:
            attempt = _Loading(self._storage, folder, self._world)
            problem = self._exchange.agree(attempt.run, lambda reports: next(filter(None, reports), None))
            if problem is None:
                assert attempt.restored is not None
                return attempt.restored
            problems.append(problem)
            self._pass_over(folder, problem)
        if problems:
            raise CheckpointError(
                f"no checkpoint that could be restored is whole: {'; '.join(problems[:3])}. `torchrelay checkpoints "
                "verify` says more; after `torchrelay checkpoints prune --damaged` the run starts from the beginning"
            )
        return None

    def _write(
        self, written: Written, shared: Mapping[str, Any], private: Mapping[str, Any], from_rank_0: Collection[str]
    ) -> Json:
        self._check_fencing()  # before anything is written, and again before the commit
        rank = self._world.rank
        state = encode(shared), encode(private, private_prefix(rank))
        agreed = plan(state[0], self._world.world_size, from_rank_0)
        write_rank(self._storage, written, rank, agreed, state)
        return _report(written, agreed, state[1], rank)

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
        self._create_manifest(f"{written.folder}/{MANIFEST}", manifest_format.dump(manifest))
        return {"bytes": manifest.size_bytes}

    def _check_fencing(self) -> None:
        newest = records.newest_writer(self._storage)
        if newest is not None and newest > self._writer:
            raise SupersededError(
                f"{self._writer} must not save any more: {newest} owns the run at {self._storage.url}"
            )

    def _create_manifest(self, path: str, data: bytes) -> None:
        try:
            self._storage.create(path, data)
        except FileExistsError:
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
            gone = retain(self._storage, self._writer, self._policy)
        except StorageError as error:
            logger.warning("old checkpoints are kept for now: %s", error)
        else:
            logger.debug("deleted %s", gone)

    def _candidates(self, step: int | None) -> Json:
        found = committed(self._storage)
        chosen = [one for one in found if step is None or one.step == step]
        if step is not None and not chosen:
            steps = ", ".join(str(at) for at in sorted({one.step for one in found})) or "none"
            raise CheckpointError(f"there is no checkpoint of step {step} at {self._storage.url}; steps there: {steps}")
        return [one.folder for one in chosen]

    def _pass_over(self, folder: str, problem: str) -> None:
        """Say that a checkpoint is damaged, and leave a mark by which retention neither counts nor deletes it."""
        if self._world.rank != 0:
            return
        logger.warning("passing over the damaged checkpoint %s: %s", folder, problem)
        with contextlib.suppress(StorageError, FileExistsError):
            mark = json.dumps({"problem": problem, "found_by": str(self._writer), "at": time.time()})
            self._storage.create(f"{folder}/{DAMAGED}", mark.encode())


@dataclass(frozen=True)
class _Head:
    """What rank 0 alone knows of a checkpoint."""

    step: int
    samples: int | None
    metrics: dict[str, float]


class _Loading:
    """One rank's try to load one checkpoint."""

    def __init__(self, storage: Storage, folder: str, world: World) -> None:
        self._storage, self._folder, self._world = storage, folder, world
        self.restored: Restored | None = None

    def run(self) -> str | None:
        """What is wrong with the part that this rank reads, or None. Raises: StorageError."""
        try:
            manifest = read_manifest(self._storage, self._folder)
            self.restored = self._load(manifest)
        except CheckpointError as error:
            return str(error)
        return None

    def _load(self, manifest: Manifest) -> Restored:
        rank, old_size = self._world.rank, manifest.world_size
        tensors = reader.read_tensors(self._storage, self._folder, manifest, lambda name: owner(name) in (None, rank))
        shared = decode(self._json(manifest, STATE), tensors, STATE)
        private = None
        for old_rank in range(rank, old_size, self._world.world_size):  # every rank's is verified by one rank
            value = self._json(manifest, rank_file(old_rank, "json"))
            if old_rank == rank:
                private = decode(value, tensors, rank_file(rank, "json"))
        if not isinstance(shared, dict) or not (private is None or isinstance(private, dict)):
            raise CheckpointError(f"{self._folder}: the state is not an object")
        metrics, about = dict(manifest.metrics), dict(manifest.about)
        return Restored(manifest.step, self._folder, shared, private, old_size, metrics, manifest.samples, about)

    def _json(self, manifest: Manifest, name: str) -> Any:
        return reader.read_json(self._storage, self._folder, manifest, name)


def _report(written: Written, agreed: Plan, private: Encoded, rank: int) -> Json:
    """What a rank tells rank 0 of its files. The shared tensors are rank 0's to tell."""
    entries = {**(agreed.entries if rank == 0 else {}), **private_entries(private, rank)}
    return {
        "plan": agreed.fingerprint,
        "files": {name: asdict(entry) for name, entry in written.files.items()},
        "tensors": {name: tensor_to_json(entry) for name, entry in entries.items()},
    }
