"""Restoring: the newest checkpoint that is whole, each byte of which is read from storage by one rank only.

Every rank reads and verifies its share of the files; then the ranks agree whether all are whole. On one machine all
take what each reads from memory that they share; otherwise they spread it over the process group. Without a group
(threads of a test, a rank alone) every rank reads all.

What training has a place for goes straight there, before it is known to be whole: if it is not, an older checkpoint
takes its place, or the restore fails.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from torchrelay.checkpoint import reader
from torchrelay.checkpoint.exchange import Exchange, World
from torchrelay.checkpoint.one_machine import ReadingTogether, Source
from torchrelay.checkpoint.places import fills
from torchrelay.checkpoint.spreading import Spreading
from torchrelay.checkpoint.state import decode
from torchrelay.contract import manifest_format, strict_json
from torchrelay.contract.errors import CheckpointError, StorageError
from torchrelay.contract.layout import MANIFEST, STATE, Writer
from torchrelay.contract.manifest import DAMAGED, Manifest, check_size, committed, owner, rank_file, read_manifest
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import Storage

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

logger = logging.getLogger(__name__)


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


class Restoring:
    """One restore of all ranks."""

    def __init__(
        self, storage: Storage, writer: Writer, world: World, exchange: Exchange, group: "ProcessGroup | None"
    ) -> None:
        self._storage, self._writer, self._world, self._exchange = storage, writer, world, exchange
        self._spreading = Spreading(group, world.rank, world.world_size) if group is not None else None

    def newest(self, step: int | None, places: Mapping[str, torch.Tensor]) -> Restored | None:
        """As CheckpointManager.restore says.

        Collective: yes
        """
        problems: dict[str, str] = {}
        while (folder := self._next(step, problems)) is not None:
            restored = self._load(_Loading(self._storage, folder, self._world, self._spreading, places))
            if isinstance(restored, Restored):
                return restored
            problems[folder] = restored
            self._exchange.agree(partial(self._pass_over, folder, restored), lambda _: None)
        if problems:
            raise CheckpointError(
                f"no checkpoint that could be restored is whole: {'; '.join(list(problems.values())[:3])}. `torchrelay "
                "checkpoints verify` says more; after `torchrelay checkpoints prune --damaged` the run starts from the "
                "beginning"
            )
        return None

    def _next(self, step: int | None, tried: Mapping[str, str]) -> str | None:
        """The newest that was not tried. Looks anew each time: an attempt that this one follows may just have committed
        its last one and deleted an older one.
        """
        found = self._exchange.agree(lambda: None, lambda _: self._candidates(step))
        return next((folder for folder in found if folder not in tried), None)

    def _load(self, loading: "_Loading") -> Restored | str:
        """The checkpoint, or what is wrong with it, on all ranks alike."""
        with loading:
            for work in loading.steps():
                problem = self._exchange.agree(partial(_problem, work), lambda seen: next(filter(None, seen), None))
                if problem is not None:
                    return str(problem)
        assert loading.restored is not None
        return loading.restored

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
        with contextlib.suppress(StorageError):
            if self._storage.size(f"{folder}/{MANIFEST}") is None:
                logger.warning("the checkpoint %s was deleted while it was read", folder)
                return
        logger.warning("passing over the damaged checkpoint %s: %s", folder, problem)
        with contextlib.suppress(StorageError, FileExistsError):
            mark = json.dumps({"problem": problem, "found_by": str(self._writer), "at": time.time()})
            self._storage.create(f"{folder}/{DAMAGED}", mark.encode())


def _problem(work: Callable[[], None]) -> str | None:
    try:
        work()
    except CheckpointError as error:
        return str(error)
    return None


class _Loading(contextlib.ExitStack):
    """One rank's part in loading one checkpoint. What it lends to the others is closed at the end."""

    def __init__(
        self,
        storage: Storage,
        folder: str,
        world: World,
        spreading: Spreading | None,
        places: Mapping[str, torch.Tensor],
    ) -> None:
        super().__init__()
        self._storage, self._folder, self._world, self._spreading = storage, folder, world, spreading
        self._places = places
        self._together: ReadingTogether | None = None
        self._manifest: Manifest | None = None
        self._tensors: dict[str, torch.Tensor] = {}
        self._json: dict[str, Any] = {}
        self.restored: Restored | None = None

    def steps(self) -> list[Callable[[], None]]:
        """What to do, and to agree on after each. Each raises CheckpointError for damage, StorageError otherwise."""
        return [self._read_manifest, self._look, self._take_memory, self._read, self._decode]

    def _read_manifest(self) -> None:
        if self._spreading is None or self._world.rank == 0:
            self._manifest = read_manifest(self._storage, self._folder)

    def _look(self) -> None:
        """Take over the manifest, and compare the sizes of this rank's files, before any memory is taken."""
        if self._spreading is not None:
            data = manifest_format.dump(self._manifest) if self._manifest is not None else None
            spread = self._spreading.bytes(data, 0)
            self._manifest = self._manifest or manifest_format.parse(spread, f"{self._folder}/manifest.json")
        self._places = {name: place for name, place in self._places.items() if fills(self._known, name, place)}
        if self._spreading is not None and self._spreading.one_machine() and not self._spreading.alike(self._places):
            self._places = {}
        for name in self._known.files:
            if self._reads(name):
                check_size(self._storage, f"{self._folder}/{name}", self._known.files[name])

    def _take_memory(self) -> None:
        if self._spreading is not None and self._spreading.one_machine():
            rank, world_size = self._world.rank, self._world.world_size
            source = Source(self._storage, self._folder, self._known, self._reader, rank, world_size)
            self._together = ReadingTogether(source, self._places, self._spreading.group)
            self.callback(self._together.close)
        else:
            names = [name for name in self._known.tensors if self._wants(name) or self._passes_on(name)]
            self._tensors = reader.memory_for(self._known, names, self._places)

    def _read(self) -> None:
        manifest = self._known
        mine = [name for name in sorted(manifest.files) if self._reads(name)]
        if self._together is not None:
            self._together.read()
        for name in mine:
            if name.endswith(".json"):
                self._json[name] = reader.read_json(self._storage, self._folder, manifest, name)
            elif self._together is None and name.endswith(".safetensors"):
                reader.read_file(self._storage, self._folder, name, manifest, self._tensors)

    def _decode(self) -> None:
        """Spread what has been read, now that all of it is known to be whole, and put the state together."""
        manifest, rank = self._known, self._world.rank
        if self._spreading is not None:
            if self._together is None:
                self._spreading.tensors(manifest, self._tensors, self._reader)
            mine = strict_json.in_order(self._json[STATE]) if STATE in self._json else None
            self._json[STATE] = strict_json.parse(self._spreading.bytes(mine, self._reader(STATE)), STATE)
        if self._together is not None:  # takes memory, and what it lacks must not keep the others waiting
            self._tensors = self._together.tensors(self._wants)
        shared, private = decode(self._json[STATE], self._tensors, STATE), None
        own = rank_file(rank, "json")
        if rank < manifest.world_size:
            private = decode(self._json[own], self._tensors, own)
        if not isinstance(shared, dict) or not (private is None or isinstance(private, dict)):
            raise CheckpointError(f"{self._folder}: the state is not an object")
        about, metrics = dict(manifest.about), dict(manifest.metrics)
        size, samples = manifest.world_size, manifest.samples
        self.restored = Restored(manifest.step, self._folder, shared, private, size, metrics, samples, about)
        self._tensors, self._json, self._together = {}, {}, None  # nothing but the result keeps memory

    @property
    def _known(self) -> Manifest:
        assert self._manifest is not None
        return self._manifest

    def _reader(self, name: str) -> int:
        """The rank that reads a file: what rank r saved, rank r reads, modulo the ranks that there are."""
        return reader.place(self._known, name) % self._world.world_size

    def _reads(self, name: str) -> bool:
        if name.endswith(".json") and name != STATE:  # each is verified by one rank, in both ways
            return self._reader(name) == self._world.rank
        return self._spreading is None or self._reader(name) == self._world.rank

    def _wants(self, name: str) -> bool:
        return owner(name) in (None, self._world.rank)

    def _passes_on(self, name: str) -> bool:
        """Whether a tensor is another rank's own, and this rank reads some of it."""
        private_to = owner(name)
        if self._spreading is None or private_to is None or private_to >= self._world.world_size:
            return False
        return any(self._reads(piece.file) for piece in self._known.tensors[name].pieces)
