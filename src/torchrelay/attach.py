"""The way from a freshly started process to a rank that may write: environment, process group, claim."""

import hashlib
import json
import os
from dataclasses import dataclass

import torch

from torchrelay import __version__, attempt, world
from torchrelay.attempt import Attempt, Unsupervised
from torchrelay.contract.layout import Writer
from torchrelay.contract.settings import Json
from torchrelay.contract.storage import open_storage
from torchrelay.endings import Ending
from torchrelay.observe import Observer
from torchrelay.world import Wanted, World

_COLLECTIVES_S = 1800.0  # how long a collective may take; the watchdog, which knows more, comes first


@dataclass(frozen=True)
class Attached:
    """A rank that belongs to a gang which owns the run. `observer` is rank 0's."""

    attempt: Attempt
    world: World
    observer: Observer | None
    ending: Ending


def connect(asked: Unsupervised, process_group: str | None, ending: Ending) -> Attached:
    """Join the other ranks, and have rank 0 claim the run. What is reached is noted in `ending` as it is reached.

    Collective: yes
    Raises: ConfigError, StorageError, SupersededError.
    """
    supervised = attempt.of_environment()
    ending.attempt = supervised
    group_exists = torch.distributed.is_initialized()
    joined = world.join(_wanted(supervised, process_group))
    ending.world, ending.owns_group = joined, not group_exists
    ending.rank, ending.world_size = joined.rank, joined.world_size
    claimed = _claim(supervised, asked, joined)
    ending.attempt = claimed
    ending.observer = Observer(claimed) if joined.is_main else None
    return Attached(claimed, joined, ending.observer, ending)


def about(spec: dict[str, Json]) -> dict[str, Json]:
    """What every checkpoint says about where it comes from."""
    digest = hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    return {"torchrelay": __version__, "torch": str(torch.__version__), "spec": digest}


def _wanted(supervised: Attempt | None, process_group: str | None) -> Wanted:
    if supervised is None:
        return Wanted(process_group or "auto", None, _COLLECTIVES_S)
    named = str(supervised.spec.get("process_group", "auto"))
    return Wanted(named, supervised.gpus_per_node, max(_COLLECTIVES_S, supervised.watchdog_s + 300))


def _claim(supervised: Attempt | None, asked: Unsupervised, joined: World) -> Attempt:
    """The attempt of this gang, claimed by rank 0.

    Collective: yes
    """
    if supervised is not None:
        joined.from_main(lambda: attempt.claim_writer(supervised))
        return supervised
    own: list[Attempt] = []

    def begin() -> Json:
        own.append(attempt.claim_next(asked))
        attempt.claim_writer(own[0])
        attempt.beat(own[0])
        return {"url": own[0].storage.url, "attempt": own[0].writer.attempt, "spec": own[0].spec}

    told = joined.from_main(begin)
    if own:
        return own[0]
    assert isinstance(told, dict)
    spec = told["spec"]
    assert isinstance(spec, dict)
    return Attempt(open_storage(str(told["url"])), Writer(int(str(told["attempt"]))), spec)


def local_world_size() -> int:
    """Ranks on this node."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
