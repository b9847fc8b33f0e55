"""Choosing what went wrong first, and reading torchrun's report, as torch 2.14.1 prints it."""

import signal

import pytest

from torchrelay.contract.records import Failure
from torchrelay.contract.reports import RankReport
from torchrelay_launch.supervisor import torchrun_report
from torchrelay_launch.supervisor.first_failure import (
    TORCH_MISSING,
    Death,
    Evidence,
    first_failure,
    last_traceback,
    signal_name,
)

REPORT = """\
W1121 10:31:50.723000 20653 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 20680 closing signal
E1121 10:31:50.921000 20653 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: 1) local_rank: 1
Traceback (most recent call last):
  File "torch/distributed/launcher/api.py", line 386, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
fail.py FAILED
------------------------------------------------------------
Failures:
[1]:
  time      : 2026-11-21_10:31:50
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 20680)  (SIGTERM)
  error_file: <N/A>
  traceback : Signal 15 (SIGTERM) received by PID 20680
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_10:31:50
  host      : localhost
  rank      : 5 (local_rank: 1)
  exitcode  : 3 (pid: 20681)
  error_file: <N/A>
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================""".splitlines()

RECORDED = [
    "Root Cause (first observed failure):",
    "[0]:",
    "  rank      : 1 (local_rank: 1)",
    "  exitcode  : 1 (pid: 7)",
    "  error_file: /tmp/error.json",
    "  traceback : Traceback (most recent call last):",
    '    File "a.py", line 3, in main',
    "      f()",
    "  ValueError: boom",
    "============",
]


def report(rank: int, at: float, error: str, *, peer_lost: bool = False) -> RankReport:
    return RankReport(rank, 70, at, Failure(error, 70, step=12, peer_lost=peer_lost))


def test_ranks_own_word_is_better_than_how_it_died() -> None:
    found = first_failure(Evidence(1, reports=[report(3, 5.0, "bad")], deaths=[Death(3, 5.1, 70)]))
    assert (found.error, found.rank, found.node, found.step) == ("bad", 3, 1, 12)


def test_rank_that_only_lost_a_peer_is_not_the_cause() -> None:
    reports = [report(0, 1.0, "peer gone", peer_lost=True), report(1, 1.2, "bad")]
    assert first_failure(Evidence(0, reports=reports)).error == "bad"


def test_killed_rank_is_the_cause_when_the_others_only_lost_it() -> None:
    reports = [report(0, 1.0, "peer gone", peer_lost=True)]
    found = first_failure(Evidence(0, reports=reports, deaths=[Death(1, 1.1, -9), Death(0, 1.2, 70)]))
    assert (found.error, found.exit_code, found.rank) == ("rank 1 (node 0) was killed by SIGKILL", 137, 1)


def test_killed_rank_comes_before_a_later_error() -> None:
    found = first_failure(Evidence(0, reports=[report(0, 2.0, "reset")], deaths=[Death(1, 1.0, -9)]))
    assert found.exit_code == 137


def test_lost_peer_is_shown_when_nothing_else_is_known() -> None:
    found = first_failure(Evidence(0, reports=[report(0, 1.0, "peer gone", peer_lost=True)]))
    assert found.peer_lost


def test_plain_script_gets_its_exit_code_and_traceback() -> None:
    stderr = {5: ["noise", "Traceback (most recent call last):", '  File "x"', "KeyError: 'a'", "after"]}
    found = first_failure(Evidence(1, torchrun_lines=REPORT, stderr=stderr))
    assert (found.exit_code, found.rank, found.node) == (3, 5, 1)
    assert found.error == "rank 5 (node 1) ended with exit code 3: KeyError: 'a'"
    assert found.traceback.endswith("KeyError: 'a'")


def test_ranks_that_torchrun_ended_are_not_the_cause() -> None:
    deaths = [Death(0, 1.0, -signal.SIGTERM), Death(5, 2.0, None)]
    assert first_failure(Evidence(0, deaths=deaths, torchrun_lines=REPORT)).rank == 5


def test_traceback_from_the_scripts_error_file_is_used() -> None:
    found = first_failure(Evidence(0, torchrun_lines=RECORDED))
    assert found.traceback.split("\n")[-1] == "ValueError: boom"


def test_torchrun_killed_or_confused() -> None:
    assert first_failure(Evidence(0, torchrun_code=137)).error == "torchrun (node 0) was killed by SIGKILL"
    wrong = first_failure(
        Evidence(0, torchrun_lines=["usage: run.py ...", "run.py: error: unrecognized arguments: --x"])
    )
    assert (wrong.exit_code, wrong.retryable) == (78, False)
    assert "unrecognized arguments: --x" in wrong.error
    missing = first_failure(Evidence(0, torchrun_lines=["ModuleNotFoundError: No module named 'torch'"]))
    assert (missing.error, missing.exit_code) == (TORCH_MISSING, 78)
    taken = ["torch.distributed.DistNetworkError: The server could not listen. port: 29500, EADDRINUSE", ""]
    assert "DistNetworkError" in first_failure(Evidence(0, torchrun_lines=taken)).error
    assert torchrun_report.port_taken(taken)


@pytest.mark.parametrize("lines", [[], [""], ["Root Cause (first observed failure):"], ["\x00", "exitcode  : x"]])
def test_garbage_is_no_report(lines: list[str]) -> None:
    assert torchrun_report.root_cause(lines) is None
    assert first_failure(Evidence(0, torchrun_lines=lines)).exit_code == 70


def test_last_traceback_is_taken_and_the_tail_where_there_is_none() -> None:
    lines = ["Traceback (most recent call last):", " a", "E: 1", "", "Traceback (most recent call last):", " b", "E: 2"]
    assert last_traceback(lines).endswith("b\nE: 2")
    assert last_traceback([*map(str, range(50))]).split("\n")[0] == "30"
    assert last_traceback([]) == ""


def test_signals_without_a_name() -> None:
    assert signal_name(9) == "SIGKILL"
    assert signal_name(40) == "signal 40"
