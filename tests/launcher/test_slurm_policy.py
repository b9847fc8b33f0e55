"""Whether a run goes on, as a pure function of what its attempts came to."""

from typing import Any

import pytest

from torchrelay_launch.backends.slurm import policy
from torchrelay_launch.backends.slurm.journal import Begin, End, Past
from torchrelay_launch.backends.slurm.policy import Next
from torchrelay_launch.backends.slurm.states import BUDGETS, STATES, Cause, node_gone, run_state
from torchrelay_launch.spec.models import Retries


def past(*ends: tuple[Cause, int | None], failed: dict[int, list[str]] | None = None) -> list[Past]:
    """Attempts by cause and the step of the newest checkpoint at their end."""
    found: list[Past] = []
    step: int | None = None
    for number, (cause, after) in enumerate(ends, 1):
        begin = Begin("1", 0, ["n1", "n2"], 0.0, step)
        found.append(Past(number, begin, End(cause, "", 0.0, after, (failed or {}).get(number, []))))
        step = after
    return found


def decide(*ends: tuple[Cause, int | None], left: bool = False, **retries: int) -> Any:
    return policy.decide(past(*ends), Retries(**retries), allocation_left=left)


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause not in BUDGETS])
def test_an_end_without_a_budget_is_final(cause: Cause) -> None:
    assert decide((cause, 10)).next is Next.FINISH


@pytest.mark.parametrize("cause", BUDGETS)
def test_an_end_with_a_budget_goes_on_until_it_is_spent(cause: Cause) -> None:
    budget = {BUDGETS[cause]: 1}
    assert decide((cause, 10), **budget).next is Next.SUBMIT
    verdict = decide((cause, 10), (cause, 20), **budget)
    assert verdict.next is Next.FINISH
    assert f"slurm.retries.{BUDGETS[cause]} is 1" in verdict.says


def test_budgets_are_separate() -> None:
    ends = [(Cause.TIME_LIMIT, 10), (Cause.PREEMPTED, 20), (Cause.NODE_FAILURE, 30)]
    assert decide(*ends, time_limit=1, preemption=1, node_failure=1).next is Next.SUBMIT


def test_no_progress_twice_in_a_row_ends_it() -> None:
    assert decide((Cause.TIME_LIMIT, None)).next is Next.SUBMIT
    assert decide((Cause.TIME_LIMIT, None), (Cause.PREEMPTED, None)).next is Next.FINISH
    assert decide((Cause.TIME_LIMIT, 5), (Cause.PREEMPTED, 5)).next is Next.SUBMIT
    assert decide((Cause.TIME_LIMIT, 5), (Cause.PREEMPTED, 5), (Cause.PREEMPTED, 5)).next is Next.FINISH
    assert decide((Cause.TIME_LIMIT, 5), (Cause.PREEMPTED, 5), (Cause.PREEMPTED, 6)).next is Next.SUBMIT


def test_a_lost_supervisor_is_started_again_where_it_was_if_the_nodes_are_still_there() -> None:
    assert decide((Cause.LOST, 5), left=True).next is Next.AGAIN
    assert decide((Cause.LOST, 5), left=False).next is Next.SUBMIT
    assert decide((Cause.TIME_LIMIT, 5), left=True).next is Next.SUBMIT


def test_nodes_that_failed_are_excluded() -> None:
    history = past((Cause.NODE_FAILURE, 5), (Cause.NODE_FAILURE, 6), failed={1: ["n1"], 2: ["n2", "n1"]})
    assert policy.decide(history, Retries(), allocation_left=False).exclude == ["n2", "n1"]


def test_states_of_any_spelling_are_known() -> None:
    assert run_state("CANCELLED by 1000") == run_state("CANCELLED+") == STATES["CANCELLED"]
    assert run_state("SOMETHING_NEW") == run_state("") == STATES["RUNNING"]


@pytest.mark.parametrize("state", ["DOWN", "DOWN*", "IDLE*", "DOWN+DRAIN", "MIXED+NOT_RESPONDING", "ALLOCATED*+DRAIN"])
def test_a_node_that_is_gone(state: str) -> None:
    assert node_gone(state)


@pytest.mark.parametrize("state", ["IDLE", "ALLOCATED", "MIXED", "ALLOCATED+DRAIN", "IDLE+CLOUD", "MIXED+COMPLETING"])
def test_a_node_that_is_there(state: str) -> None:
    assert not node_gone(state)


def waited(*jobs: tuple[str, int, float], resumed: bool = False) -> list[Past]:
    """Attempts by job, its restart count, and the seconds that it waited since the attempt before ended."""
    found, now = [], 0.0
    for number, (job_id, restarts, seconds) in enumerate(jobs, 1):
        following = "" if resumed or number == len(jobs) else jobs[number][0]
        begin = Begin(job_id, restarts, ["n1"], now + seconds)
        now = begin.at + 100.0
        found.append(Past(number, begin, End(Cause.TIME_LIMIT, "", now, number, next_job=following)))
    return found


def test_a_new_job_until_one_waited_longer_than_slurm_holds_a_requeued_one() -> None:
    assert policy.quicker(waited(("1", 0, 9.0)), 120.0) == "chain"
    assert policy.quicker(waited(("1", 0, 0.0), ("2", 0, 60.0)), 120.0) == "chain"
    assert policy.quicker(waited(("1", 0, 0.0), ("2", 0, 600.0)), 120.0) == "requeue"
    assert policy.quicker(waited(("1", 0, 0.0), ("2", 0, 600.0), resumed=True), 120.0) == "chain"


def test_what_was_seen_last_of_each_decides() -> None:
    chained = [("1", 0, 0.0), ("2", 0, 600.0)]
    assert policy.quicker(waited(*chained, ("2", 1, 130.0)), 120.0) == "requeue"
    assert policy.quicker(waited(*chained, ("2", 1, 900.0)), 120.0) == "chain"
    assert policy.quicker(waited(*chained, ("2", 1, 900.0), ("3", 0, 950.0)), 120.0) == "requeue"
    assert policy.quicker(waited(("1", 0, 0.0), ("1", 1, 20.0), ("2", 0, 30.0)), 120.0) == "requeue"


def test_starting_again_in_the_same_allocation_says_nothing_about_the_queue() -> None:
    assert policy.quicker(waited(("1", 0, 0.0), ("1", 0, 1.0), ("2", 0, 60.0)), 120.0) == "chain"
