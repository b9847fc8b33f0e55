"""What becomes of an attempt after a gang has ended: goes on, or ends with which exit code and outcome."""

import asyncio
import dataclasses
import logging
import time
from collections.abc import Callable

from torchrelay.contract import layout, manifest, records
from torchrelay.contract.errors import StorageError, TorchrelayError
from torchrelay.contract.exit_codes import ExitCode, Outcome, outcome_of
from torchrelay.contract.layout import Writer
from torchrelay.contract.records import Failure, OutcomeRecord
from torchrelay.contract.storage import Storage
from torchrelay_launch.runs.status import last_step
from torchrelay_launch.supervisor.budget import Budget
from torchrelay_launch.supervisor.coordinator import Verdict
from torchrelay_launch.supervisor.gang import End, Ending

logger = logging.getLogger(__name__)

PORT_TRIES = 5


class Judge:
    """Decides, and writes the outcome when nobody else has. `say` puts a line into the log."""

    def __init__(self, storage: Storage, attempt: int, allowed: int, say: Callable[[str], None]) -> None:
        self.stopping: Callable[[], str | None] = lambda: None  # "stop", "cancel" or None
        self.stop_reason = ""
        self._storage, self._attempt, self._say = storage, attempt, say
        self._budget = Budget(allowed, self._checkpoint())
        self._port_tries = 0

    async def judge(self, endings: list[Ending], restart: int) -> Verdict:
        """Decide after a gang has ended on all nodes."""
        return await asyncio.to_thread(self._judge, endings, restart)

    async def missing(self, failure: Failure) -> Verdict:
        """Decide when not all nodes came."""
        return await asyncio.to_thread(self._finish, failure.exit_code, failure, 0)

    def conclude(self, failure: Failure) -> int:
        """End the attempt before anything was started. Returns the exit code."""
        return self._finish(failure.exit_code, failure, 0).exit_code or failure.exit_code

    def superseded(self) -> bool:
        """Whether a newer attempt has claimed the run."""
        numbers = records.attempt_numbers(self._storage)
        return bool(numbers) and numbers[-1] > self._attempt

    def _judge(self, endings: list[Ending], restart: int) -> Verdict:
        written = self._written_outcome()
        if written is not None and written.outcome is not Outcome.FAILED:
            return Verdict(self._explained(written.exit_code))  # the ranks had said it before they ended
        failure = self._described(first(endings), restart)
        if self.stopping():
            return self._after_stop(endings, failure, restart)
        if failure is None:
            clean = all(one.end is End.COMPLETED for one in endings)
            return self._finish(ExitCode.COMPLETED if clean else ExitCode.PREEMPTED, None, restart)
        return self._after_failure(endings, failure, restart)

    def _after_stop(self, endings: list[Ending], failure: Failure | None, restart: int) -> Verdict:
        """A stop ends the attempt well, whatever else happened, unless going on later would be no use."""
        if all(one.end is End.COMPLETED for one in endings):
            return self._finish(ExitCode.COMPLETED, None, restart)
        if failure is not None and not _worth_another_attempt(failure):
            return self._finish(failure.exit_code, failure, restart)
        cancelled = self.stopping() == "cancel"
        return self._finish(ExitCode.KILLED if cancelled else ExitCode.PREEMPTED, failure, restart, preempted=True)

    def _after_failure(self, endings: list[Ending], failure: Failure, restart: int) -> Verdict:
        if self._newer_attempt():
            return self._finish(ExitCode.SUPERSEDED, None, restart)
        if any(one.port_taken for one in endings) and self._port_tries < PORT_TRIES:
            self._port_tries += 1
            self._say("the port of the rendezvous was taken in between; starting again with another")
            return Verdict()
        decision = self._budget.after(failure, self._checkpoint())
        self._say(_in_short(failure))
        if decision.restart:
            wait = f" in {decision.delay_s:g} s" if decision.delay_s else ""
            self._say(f"starting the ranks again{wait} ({decision.reason})")
            return Verdict(delay_s=decision.delay_s)
        if failure.retryable and failure.exit_code not in (ExitCode.CONFIG, ExitCode.SUPERSEDED):
            self._say(f"giving up: {decision.reason}")
            failure = dataclasses.replace(failure, error=f"{failure.error} (gave up: {decision.reason})")
        return self._finish(failure.exit_code, failure, restart)

    def _finish(self, exit_code: int, failure: Failure | None, restart: int, *, preempted: bool = False) -> Verdict:
        """Write the outcome, unless the ranks have: the first one holds."""
        outcome = Outcome.PREEMPTED if preempted else outcome_of(exit_code)
        step = failure.step if failure else self._step(restart)
        record = OutcomeRecord(outcome, int(exit_code), time.time(), step, failure, restart)
        try:
            self._storage.create(layout.attempt_file(self._attempt, "outcome"), records.dump(record))
        except FileExistsError:
            pass
        except TorchrelayError as error:
            self._say(f"the outcome cannot be written: {error}")
        return Verdict(self._explained(int(exit_code)))

    def _explained(self, exit_code: int) -> int:
        because = f" ({self.stop_reason})" if self.stop_reason else ""
        self._say(f"ended with exit code {exit_code}{because}")
        return exit_code

    def _described(self, failure: Failure | None, restart: int) -> Failure | None:
        """With the step it happened at, as far as the events tell."""
        if failure is None or failure.step is not None:
            return failure
        step = self._step(restart)
        if step is None:
            return failure
        known = f"{failure.error} at step {step}" if " was killed by " in failure.error else failure.error
        return dataclasses.replace(failure, step=step, error=known)

    def _step(self, restart: int) -> int | None:
        try:
            return last_step(self._storage, [layout.events_file(Writer(self._attempt, restart))])[0]
        except StorageError:
            return None

    def _checkpoint(self) -> int | None:
        """Step of the newest commit; None also while the storage is away, which then counts as no progress."""
        try:
            newest = manifest.newest_committed(self._storage)
        except StorageError as error:
            logger.warning("cannot look for checkpoints: %s", error)
            return None
        return newest.step if newest else None

    def _written_outcome(self) -> OutcomeRecord | None:
        try:
            return records.read(self._storage, OutcomeRecord, layout.attempt_file(self._attempt, "outcome"))
        except StorageError as error:
            logger.warning("cannot look for an outcome: %s", error)
            return None

    def _newer_attempt(self) -> bool:
        try:
            return self.superseded()
        except StorageError:
            return False


def first(endings: list[Ending]) -> Failure | None:
    """The failure that came first on any node; one that only followed another rank's end comes last."""
    failing = [one for one in endings if one.failure is not None]
    return min(failing, key=_precedence).failure if failing else None


def _precedence(ending: Ending) -> tuple[bool, float]:
    assert ending.failure is not None
    return ending.failure.peer_lost, ending.at


def _worth_another_attempt(failure: Failure) -> bool:
    """Whether a later attempt may do better: not after a mistake in the spec or a diverged loss."""
    lost_node = failure.rank is None and failure.exit_code == ExitCode.FAILED
    return (failure.retryable or lost_node) and failure.exit_code not in (ExitCode.CONFIG, ExitCode.SUPERSEDED)


def _in_short(failure: Failure) -> str:
    """One line: the log has the rest already, from the rank itself."""
    first, _, more = failure.error.partition("\n")
    return f"{first}{' ...' if more else ''}"
