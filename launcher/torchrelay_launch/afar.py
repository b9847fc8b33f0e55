"""A run whose backend is a cluster far away: how it stands and what crashed there, asked now and then.

The cluster may not answer for a while. What a run writes into its storage comes all the same, so whoever follows it
goes on, says once that the cluster is away, and asks again, less and less often.
"""

import time

from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.base import load_backend
from torchrelay_launch.display.style import note
from torchrelay_launch.runs.status import RunStatus, run_status

ASK_EVERY_S = {"kubernetes": 2.0}  # others know for themselves how often they may be asked
WORDS_EVERY_S = 5.0
LONGEST_S = 15.0  # between questions to a cluster that is away


class Afar:
    """One run, as its follower sees it."""

    def __init__(self, storage: Storage, *, quiet: bool) -> None:
        self._storage, self._quiet = storage, quiet
        self._status: RunStatus | None = None
        self._ask_at = self._words_at = 0.0
        self._wait_s = 0.0
        self._said = ""  # last: that the cluster is away, or why the run waits there
        self._heard: set[str] = set()  # last words that were returned

    def status(self) -> RunStatus:
        """How the run stands, not older than the cluster may be asked. Raises: ConfigError, StorageError."""
        if self._status is not None and time.monotonic() < self._ask_at:
            return self._status
        self._status = status = run_status(self._storage)
        every_s = ASK_EVERY_S.get(status.backend, 0.0)
        self._wait_s = min(LONGEST_S, 2 * self._wait_s) if status.unreachable and self._wait_s else every_s
        self._ask_at = time.monotonic() + self._wait_s
        if every_s:
            self._say(status)
        return status

    def last_words(self, status: RunStatus, attempt: int) -> list[str]:
        """Lines of nodes that crashed in an attempt and that its logs lack, each crash once."""
        asked = next((one for one in status.history if one.record.number == attempt), None)
        completed = asked is None or (asked.outcome is not None and asked.outcome.outcome is Outcome.COMPLETED)
        due = not status.live or attempt != status.attempts or time.monotonic() >= self._words_at
        if asked is None or asked.record.backend not in ASK_EVERY_S or completed or status.unreachable or not due:
            return []
        self._words_at = time.monotonic() + WORDS_EVERY_S
        try:
            found = load_backend(asked.record.backend).last_words(self._storage, attempt, self._heard)
        except TorchrelayError as error:
            self._say_once(f"what crashed pods printed cannot be asked for: {error}")
            return []
        self._heard |= {one.key for one in found}
        return [line for one in found for line in one.lines]

    def _say(self, status: RunStatus) -> None:
        """That the cluster is away, that it is back, or why the run waits there: each once."""
        observed = status.history[-1].observed if status.history else None
        if status.unreachable:
            self._say_once(f"{status.unreachable}; its logs go on as far as they reach storage, and it is asked again")
        elif self._wait_s and "it is asked again" in self._said:
            self._say_once("the cluster answers again")
        elif observed is not None and observed.says and status.state is RunState.PENDING:
            self._say_once(observed.says)

    def _say_once(self, text: str) -> None:
        if text != self._said:
            self._said = text
            note(text, quiet=self._quiet)
