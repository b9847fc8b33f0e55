"""Which checkpoints stay: the newest, the best, and whatever is damaged; and sweeping what was never committed."""

import logging
import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torchrelay.contract import layout, lineage
from torchrelay.contract.errors import CheckpointError, StorageError
from torchrelay.contract.layout import Writer
from torchrelay.contract.lineage import Fork
from torchrelay.contract.manifest import (
    DAMAGED,
    Committed,
    Contents,
    FileEntry,
    check_sizes,
    committed_in,
    read_manifest,
)
from torchrelay.contract.storage import LocalStorage, Storage
from torchrelay.contract.training import Checkpoint, KeepBest
from torchrelay.contract.units import Interval

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A good checkpoint, as far as its manifest and sizes tell, its metrics, and when it was made (seconds)."""

    checkpoint: Committed
    metrics: dict[str, float]
    created_at: float = 0.0


@dataclass(frozen=True)
class _Known:
    """What retention needs of a manifest of so many bytes."""

    size: int
    candidate: Candidate
    files: Mapping[str, FileEntry]


class Retention:
    """What one writer deletes of a run's checkpoints. Keeps in mind what never changes, to read it only once.

    Never takes the newest, a damaged one, or anything of a writer that may still be at work.
    """

    def __init__(self, storage: Storage, writer: Writer, policy: Checkpoint) -> None:
        self._storage, self._writer, self._policy = storage, writer, policy
        self._forks: list[Fork] | None = None  # a later one comes with an attempt that owns the run from then on
        self._known: dict[str, _Known] = {}
        self._dropped = False
        self._stuck: set[str] = set()  # what could not be deleted the last time

    def apply(self) -> list[str]:
        """Delete what is not kept. Returns the folders deleted. Raises: StorageError at the first that cannot be."""
        gone = sorted(self.to_delete(), key=lambda folder: folder in self._stuck)  # these must not keep the others
        for folder in gone:
            self._stuck.add(folder)
            delete_checkpoint(self._storage, folder)
            self._stuck.remove(folder)
        if not self._dropped:
            self._dropped = True
            self._drop_uploads()
        return gone

    def _drop_uploads(self) -> None:
        """Of writers that came before this one."""
        try:
            self._storage.drop_uploads(layout.CHECKPOINTS, self._is_over)
        except StorageError as error:  # it may be forbidden to list them, and then a rule of the bucket has to do it
            logger.debug("uploads that were killed are left to the bucket: %s", error)

    def _is_over(self, name: str) -> bool:
        """Whether a checkpoint's folder is of a writer that came before this one, and so is dead or fenced off."""
        parsed = layout.parse_checkpoint_folder(name)
        return parsed is not None and parsed[1] < self._writer

    def to_delete(self, damaged: Collection[str] = ()) -> list[str]:
        """Folders of good checkpoints that the policy does not keep, and what dead writers left behind.

        `damaged`: folders of those that are known not to be good, whatever their sizes say.
        """
        contents = self._storage.contents(layout.CHECKPOINTS)
        policy = self._policy
        good = [one for one in self._candidates(contents) if one.checkpoint.folder not in damaged]
        more = superfluous(good, policy.keep_last, policy.keep_best, policy.keep_every)
        return [*(one.folder for one in more), *self._leftovers(contents)]

    def _candidates(self, contents: Contents) -> list[Candidate]:
        if self._forks is None:
            self._forks = lineage.forks(self._storage)
        found = []
        for one in committed_in(contents, self._forks):
            files = contents[one.name]
            if DAMAGED in files:
                continue
            try:
                known = self._read(one, files[layout.MANIFEST])
                check_sizes(one.folder, known.files, files)
                found.append(known.candidate)
            except CheckpointError as error:
                logger.warning("keeping the damaged checkpoint %s aside: %s", one.folder, error)
        self._known = {one.checkpoint.folder: self._known[one.checkpoint.folder] for one in found}
        return found

    def _read(self, one: Committed, size: int) -> _Known:
        """The manifest of a checkpoint. Raises: CheckpointError."""
        known = self._known.get(one.folder)
        if known is None or known.size != size:
            manifest = read_manifest(self._storage, one.folder)
            known = _Known(size, Candidate(one, dict(manifest.metrics), manifest.created_at), manifest.files)
            self._known[one.folder] = known
        return known

    def _leftovers(self, contents: Contents) -> list[str]:
        """Folders whose writers came before this one, without a manifest or with nothing else."""
        found = []
        for name, files in contents.items():
            folder = f"{layout.CHECKPOINTS}/{name}"
            if self._is_over(name) and self._is_left(folder, files):
                found.append(folder)
        return found

    def _is_left(self, folder: str, files: Collection[str]) -> bool:
        """Looks at each object whose absence matters: a listing may be late where a look is not.

        A manifest alone is of a writer that committed, too late, what was being swept, and was killed before it saw so.
        """
        if layout.MANIFEST not in files:
            return self._storage.size(f"{folder}/{layout.MANIFEST}") is None
        if not {layout.MANIFEST, DAMAGED}.issuperset(files):
            return False
        try:
            named = read_manifest(self._storage, folder).files
        except CheckpointError:
            return False
        return all(self._storage.size(f"{folder}/{name}") is None for name in named)


def superfluous(
    candidates: list[Candidate], keep_last: int, keep_best: KeepBest | None, keep_every: Interval | None = None
) -> list[Committed]:
    """The checkpoints that a policy does not keep, of good ones given the newest first. Pure."""
    kept = candidates[: max(keep_last, 1)] + (milestones(candidates, keep_every) if keep_every else [])
    if keep_best is not None:
        sign = 1 if keep_best.mode == "min" else -1
        scored = [one for one in candidates if math.isfinite(one.metrics.get(keep_best.metric, math.nan))]
        kept = kept + sorted(scored, key=lambda one: sign * one.metrics[keep_best.metric])[:1]
    return [one.checkpoint for one in candidates if one not in kept]


def milestones(candidates: list[Candidate], every: Interval) -> list[Candidate]:
    """The first checkpoint at or after each multiple of so many steps, and one in every so much time, oldest on.

    Deleting the others does not change which these are, so that what is kept once is kept for ever.
    """
    kept: list[Candidate] = []
    passed, since = 0, -math.inf
    for one in reversed(candidates):
        multiple = one.checkpoint.step // every.steps if every.steps else 0
        late = every.seconds is not None and one.created_at - since >= every.seconds
        if multiple > passed or late:
            kept.append(one)
            passed, since = max(passed, multiple), one.created_at
    return kept


def delete_checkpoint(storage: Storage, folder: str) -> None:
    """Manifest first, so that a deletion that is cut short leaves no checkpoint rather than a damaged one.

    What a link leads to is not the run's: only the link goes.
    """
    if isinstance(storage, LocalStorage) and storage.path(folder).is_symlink():
        storage.delete(folder)
        return
    storage.delete(f"{folder}/{layout.MANIFEST}")
    storage.delete(folder)
