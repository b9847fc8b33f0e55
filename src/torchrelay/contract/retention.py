"""Which checkpoints stay: the newest, the best, and whatever is damaged; and sweeping what was never committed."""

import logging
import math
from dataclasses import dataclass

from torchrelay.contract import layout
from torchrelay.contract.errors import CheckpointError
from torchrelay.contract.layout import Writer
from torchrelay.contract.manifest import Committed, committed, marked_damaged, read_sized
from torchrelay.contract.storage import Storage
from torchrelay.contract.training import Checkpoint, KeepBest
from torchrelay.contract.units import Interval

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Candidate:
    """A good checkpoint, as far as its manifest and sizes tell, its metrics, and when it was made (seconds)."""

    checkpoint: Committed
    metrics: dict[str, float]
    created_at: float = 0.0


def retain(storage: Storage, writer: Writer, policy: Checkpoint) -> list[str]:
    """Delete what the policy does not keep, and what dead writers left behind. Returns the folders deleted.

    Never deletes the newest, a damaged one, or anything of a writer that may still be at work.

    Raises: StorageError.
    """
    gone = [*superfluous_in(storage, policy), *leftovers(storage, writer)]
    for folder in gone:
        delete_checkpoint(storage, folder)
    return gone


def superfluous_in(storage: Storage, policy: Checkpoint) -> list[str]:
    """Folders of the good checkpoints that a policy does not keep."""
    candidates = _candidates(storage)
    return [one.folder for one in superfluous(candidates, policy.keep_last, policy.keep_best, policy.keep_every)]


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
    """Manifest first, so that a deletion that is cut short leaves no checkpoint rather than a damaged one."""
    storage.delete(f"{folder}/{layout.MANIFEST}")
    storage.delete(folder)


def leftovers(storage: Storage, writer: Writer) -> list[str]:
    """Folders without a manifest whose writers came before this one, and so are dead or fenced off."""
    found = []
    for name in storage.list(layout.CHECKPOINTS):
        parsed = layout.parse_checkpoint_folder(name)
        folder = f"{layout.CHECKPOINTS}/{name}"
        if parsed is None or parsed[1] >= writer or storage.size(f"{folder}/{layout.MANIFEST}") is not None:
            continue
        found.append(folder)
    return found


def _candidates(storage: Storage) -> list[Candidate]:
    found = []
    for one in committed(storage):
        if marked_damaged(storage, one.folder):
            continue
        try:
            manifest = read_sized(storage, one.folder)
            found.append(Candidate(one, dict(manifest.metrics), manifest.created_at))
        except CheckpointError as error:
            logger.warning("keeping the damaged checkpoint %s aside: %s", one.folder, error)
    return found
