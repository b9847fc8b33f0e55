"""How the ranks agree through the store: all report to rank 0, rank 0 decides, all get the same answer or error.

No collectives, so that it works from any thread, beside collectives of the training, and with a time limit that can
name the ranks that did not report.
"""

import datetime
import json
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from torchrelay.contract import errors
from torchrelay.contract.errors import PeerLostError, StorageError, TorchrelayError
from torchrelay.contract.settings import Json

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store


logger = logging.getLogger(__name__)


class World(Protocol):
    """What checkpoints need to know of the gang. `store` is None for a rank that is alone.

    It may also have a `side_group`, a gloo group of all ranks: a restore then spreads over it what each rank reads.
    """

    @property
    def rank(self) -> int: ...

    @property
    def world_size(self) -> int: ...

    @property
    def store(self) -> "Store | None": ...


class Exchange:
    """A sequence of agreements. Every rank must make the same calls in the same order."""

    def __init__(self, world: World, name: str, timeout_s: float) -> None:
        if world.world_size > 1 and world.store is None:
            raise ValueError(f"rank {world.rank} of {world.world_size} has no store to reach the others")
        self._world, self._name, self._timeout_s = world, name, timeout_s
        self._count = 0
        self.settled = True  # whether this rank knows how the latest agreement ended

    def agree(self, work: Callable[[], Json], decide: Callable[[list[Any]], Json]) -> Any:
        """Do `work` on every rank, then `decide` on rank 0 with what each rank's work returned; the decision.

        Collective: yes. Raises: the same TorchrelayError on all ranks if any rank's work or the decision raised one.
        """
        self._count += 1
        self.settled = False
        mine = _guarded(work, self._rank_in_words(self._world.rank))
        if self._world.rank == 0:
            answer = _guarded(lambda: decide(self._results(self._gather(mine))), "")
            self.settled = True
            self._forget_previous()
            self._post("answer", answer)
        else:
            self._post(f"rank-{self._world.rank}", mine)
            answer = self._answer()
            self.settled = True
        for outcome in (mine, answer):
            if "unexpected" in outcome:
                raise outcome["unexpected"]
        return self._results([answer])[0]

    def _gather(self, mine: dict[str, Any]) -> list[dict[str, Any]]:
        others = range(1, self._world.world_size)
        late = self._late([self._key(f"rank-{rank}") for rank in others])
        if late:
            ranks = _ranks([index + 1 for index in late])
            raise StorageError(f"{ranks} did not report on a checkpoint within {self._timeout_s:g} s")
        return [mine, *(self._get(f"rank-{rank}") for rank in others)]

    def _answer(self) -> dict[str, Any]:
        """Rank 0's, which always comes: it waits for nobody for ever, and its store ends with it.

        Whoever gave up before would take a save for failed that rank 0 commits.
        """
        while self._late([self._key("answer")]):
            logger.warning("rank 0 has not said for %g s what becomes of a checkpoint; waiting on", self._timeout_s)
        return self._get("answer")

    def _results(self, outcomes: list[dict[str, Any]]) -> list[Any]:
        failed = [outcome for outcome in outcomes if "error" in outcome]
        if failed:
            more = len(failed) - 1
            also = f" (and {more} more rank{'s' if more > 1 else ''} failed)" if more else ""
            raise _error_class(failed[0]["error"])(failed[0]["text"] + also)
        return [outcome["result"] for outcome in outcomes]

    def _late(self, keys: list[str]) -> list[int]:
        """Wait for keys; the indexes of those that do not come within the time."""
        store = self._world.store
        if store is None or not keys:
            return []
        try:
            store.wait(keys, datetime.timedelta(seconds=self._timeout_s))
        except RuntimeError:
            with _store_errors():
                return [index for index, key in enumerate(keys) if not store.check([key])]
        return []

    def _post(self, what: str, outcome: dict[str, Any]) -> None:
        if self._world.store is not None:
            plain = {key: value for key, value in outcome.items() if key != "unexpected"}
            with _store_errors():
                self._world.store.set(self._key(what), json.dumps(plain))

    def _get(self, what: str) -> dict[str, Any]:
        assert self._world.store is not None
        with _store_errors():
            return dict(json.loads(self._world.store.get(self._key(what))))

    def _forget_previous(self) -> None:
        """All ranks have come to this agreement, so the previous one's keys have been read."""
        if self._world.store is not None and self._count > 1:
            ranks = [f"rank-{rank}" for rank in range(1, self._world.world_size)]
            with _store_errors():
                for what in ("answer", *ranks):
                    self._world.store.delete_key(self._key(what, self._count - 1))

    def _key(self, what: str, count: int | None = None) -> str:
        return f"torchrelay/{self._name}/{count or self._count}/{what}"

    def _rank_in_words(self, rank: int) -> str:
        return f"rank {rank}: " if self._world.world_size > 1 else ""


class _store_errors:  # noqa: N801
    """Turns the store's errors into the one that says what they mean: rank 0, which holds the store, is gone."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, (RuntimeError, ConnectionError)):
            raise PeerLostError("rank 0's store is gone while a checkpoint was agreed on") from error


def _guarded(work: Callable[[], Json], who: str) -> dict[str, Any]:
    """What `work` returned or raised, in a form that goes through the store."""
    try:
        return {"result": work()}
    except TorchrelayError as error:
        return {"error": type(error).__name__, "text": f"{who}{error}"}
    except BaseException as error:  # noqa: BLE001  # the other ranks must hear of it; it is raised again here
        return {"error": "TorchrelayError", "text": f"{who}{type(error).__name__}: {error}", "unexpected": error}


def _error_class(name: str) -> type[TorchrelayError]:
    found = getattr(errors, name, TorchrelayError)
    return found if isinstance(found, type) and issubclass(found, TorchrelayError) else TorchrelayError


def _ranks(ranks: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:8])
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{', ...' if len(ranks) > 8 else ''}"
