"""The restart budget, by itself."""

from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import Failure
from torchrelay_launch.supervisor.budget import Budget

KILLED = Failure("rank 1 (node 0) was killed by SIGKILL", 137, rank=1)


def raised(text: str, step: int | None = None) -> Failure:
    return Failure("rank 0 failed", 70, rank=0, step=step, traceback=f"Traceback\nValueError: {text}")


def test_first_restart_is_immediate_and_the_later_ones_wait_longer() -> None:
    budget = Budget(8)
    delays = [budget.after(KILLED, None).delay_s for _ in range(8)]
    assert delays == [0, 1, 2, 4, 8, 16, 30, 30]


def test_budget_is_spent_after_the_allowed_failures() -> None:
    budget = Budget(2)
    assert [budget.after(KILLED, None).restart for _ in range(3)] == [True, True, False]
    assert "failed 4 times since the last checkpoint" in budget.after(KILLED, None).reason


def test_no_restart_is_allowed_with_zero() -> None:
    decision = Budget(0).after(KILLED, None)
    assert (decision.restart, decision.reason) == (False, "restarts.on_failure is 0")


def test_new_checkpoint_refills_the_budget() -> None:
    budget = Budget(1, checkpoint=100)
    assert budget.after(KILLED, 100).restart
    assert budget.after(KILLED, 200).restart
    assert not budget.after(KILLED, 200).restart


def test_older_checkpoint_than_before_is_progress_too() -> None:
    """After `resume --from` an earlier step, the first commit may be of a smaller step."""
    budget = Budget(1, checkpoint=500)
    assert budget.after(KILLED, 500).restart
    assert budget.after(KILLED, 300).restart


def test_same_error_at_the_same_step_is_not_tried_a_third_time() -> None:
    budget = Budget(9)
    assert budget.after(raised("bad sample 17 at 0x7f01", 40), None).restart
    decision = budget.after(raised("bad sample 17 at 0x7f99", 40), None)
    assert not decision.restart
    assert "twice in a row without any progress" in decision.reason


def test_same_error_at_another_step_is_tried_again() -> None:
    budget = Budget(9)
    assert budget.after(raised("timeout", 40), None).restart
    assert budget.after(raised("timeout", 60), None).restart


def test_same_error_after_a_checkpoint_is_tried_again() -> None:
    budget = Budget(9)
    assert budget.after(raised("flaky", 40), 30).restart
    assert budget.after(raised("flaky", 40), 35).restart


def test_same_error_on_another_rank_is_the_same() -> None:
    budget = Budget(9)
    assert budget.after(Failure("rank 0 (node 0) ended with exit code 3", 3, rank=0), None).restart
    assert not budget.after(Failure("rank 11 (node 2) ended with exit code 3", 3, rank=11), None).restart


def test_crash_by_signal_counts_as_the_same_error_but_a_kill_does_not() -> None:
    crash = Failure("rank 0 (node 0) was killed by SIGSEGV", 139)
    budget = Budget(9)
    assert [budget.after(crash, None).restart for _ in range(2)] == [True, False]
    assert [Budget(9).after(KILLED, None).restart for _ in range(2)] == [True, True]


def test_what_cannot_get_better_is_not_tried_again() -> None:
    for code in (ExitCode.CONFIG, ExitCode.SUPERSEDED, ExitCode.PREEMPTED):
        assert not Budget(3).after(Failure("no", code), None).restart
    assert not Budget(3).after(Failure("loss is nan", 70, retryable=False), None).restart
    assert Budget(3).after(Failure("storage away", ExitCode.STORAGE), None).restart
    assert Budget(3).after(Failure("hung", ExitCode.NO_PROGRESS), None).restart
