"""What ended an attempt, from what is known of it."""

import dataclasses
from pathlib import Path

import pytest

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import Outcome, RunState
from torchrelay.contract.records import Failure, OutcomeRecord, StopRequest
from torchrelay_launch.backends.slurm import client
from torchrelay_launch.backends.slurm.causes import Evidence, Words, cause_of, read_words
from torchrelay_launch.backends.slurm.client import Job, SchedulerAwayError, SchedulerError, explained
from torchrelay_launch.backends.slurm.partitions import minutes
from torchrelay_launch.backends.slurm.states import Cause
from torchrelay_launch.backends.slurm.watching import observed

ALONE = Evidence(None, None, terminated=False, job={}, restart_count=0, failed_nodes=[])
DONE = OutcomeRecord(Outcome.COMPLETED, 0, 0.0)
SAVED = OutcomeRecord(Outcome.PREEMPTED, 75, 0.0)
RAISED = OutcomeRecord(Outcome.FAILED, 70, 0.0, failure=Failure("boom", 70, rank=1))
NODE_LOST = OutcomeRecord(
    Outcome.FAILED, 70, 0.0, failure=Failure("node 1 was lost: the connection to its supervisor ended", 70, node=1)
)
STOP = StopRequest("stop", 0.0, "ada@login")
PREEMPTED = {"PreemptTime": "2026-11-21T10:25:52", "Restarts": "0"}
REQUEUED = {"PreemptTime": "None", "Restarts": "1"}
OVER = {"PreemptTime": "None", "Restarts": "0", "TimeLimit": "00:01:00", "RunTime": "00:01:13"}
WITHIN = {"PreemptTime": "None", "Restarts": "0", "TimeLimit": "1-00:00:00", "RunTime": "00:01:13"}
CASES = [
    ({"outcome": DONE}, Cause.COMPLETED),
    ({"outcome": DONE, "terminated": True, "stop": STOP}, Cause.COMPLETED),
    ({"outcome": SAVED, "stop": STOP}, Cause.STOPPED),
    ({"outcome": SAVED, "srun_code": 75}, Cause.TIME_LIMIT),
    ({"outcome": SAVED, "srun_code": 137}, Cause.LOST),
    ({"outcome": SAVED, "terminated": True, "job": PREEMPTED}, Cause.PREEMPTED),
    ({"outcome": SAVED, "terminated": True, "job": {**PREEMPTED, "Restarts": "1"}}, Cause.PREEMPTED),
    ({"outcome": SAVED, "terminated": True, "job": REQUEUED}, Cause.REQUEUED),
    ({"outcome": SAVED, "terminated": True, "job": REQUEUED, "failed_nodes": ["n1"]}, Cause.NODE_FAILURE),
    ({"outcome": SAVED, "terminated": True, "job": OVER}, Cause.TIME_LIMIT),
    ({"outcome": SAVED, "terminated": True, "job": WITHIN}, Cause.STOPPED),
    ({"outcome": SAVED, "terminated": True, "job": REQUEUED, "because": Cause.PREEMPTED}, Cause.PREEMPTED),
    ({"outcome": None, "terminated": True, "job": {}}, Cause.STOPPED),
    ({"outcome": None}, Cause.LOST),
    ({"outcome": NODE_LOST}, Cause.LOST),
    ({"outcome": NODE_LOST, "failed_nodes": ["n2"]}, Cause.NODE_FAILURE),
    ({"outcome": RAISED}, Cause.FAILED),
    ({"outcome": OutcomeRecord(Outcome.SUPERSEDED, 76, 0.0)}, Cause.SUPERSEDED),
]


@pytest.mark.parametrize(("known", "cause"), CASES)
def test_the_cause_is_what_says_most(known: dict[str, object], cause: Cause) -> None:
    assert cause_of(dataclasses.replace(ALONE, **known)) is cause  # type: ignore[arg-type]


def test_slurms_words_since_the_start_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "hostnames", lambda said: [said])
    file = tmp_path / "job-7.out"
    old = "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-21T10:25:52 DUE TO JOB REQUEUE ***\n"
    new = (
        "srun: error: Node failure on n2\n"
        "slurmstepd-n1: error: *** JOB 7 ON n1 CANCELLED AT 2026-11-21T10:58:45 DUE TO NODE FAILURE, SEE SLURMCTLD LOG "
        "FOR DETAILS ***\n"
    )
    file.write_text(old)
    assert read_words(file, 0) == Words(Cause.REQUEUED)
    assert read_words(file, len(old)) == Words()
    file.write_text(old + new)
    assert read_words(file, len(old)) == Words(Cause.NODE_FAILURE, ("n2",))
    assert read_words(tmp_path / "missing", 0) == Words()


@pytest.mark.parametrize(
    ("job", "begun", "state", "says"),
    [
        (
            Job("7", "PENDING", "Priority", expected_start="2026-11-21T12:30:00"),
            False,
            RunState.PENDING,
            "Priority, expected",
        ),
        (Job("7", "RUNNING", nodes="n[1-2]"), True, RunState.RUNNING, "on n[1-2]"),
        (Job("7", "RUNNING"), False, RunState.PENDING, "job 7"),
        (Job("7", "CANCELLED"), False, RunState.STOPPED, "CANCELLED"),
        (Job("7", "NODE_FAIL"), True, RunState.FAILED, "NODE_FAIL"),
    ],
)
def test_what_slurm_says_of_an_attempt(job: Job, begun: bool, state: RunState, says: str) -> None:
    found = observed(job, begun=begun)
    assert found.state is state
    assert says in found.says


@pytest.mark.parametrize(("text", "expected"), [("1-01:00:00", 1500), ("00:01:00", 1), ("UNLIMITED", None), ("", None)])
def test_slurms_times(text: str, expected: int | None) -> None:
    assert minutes(text) == expected


@pytest.mark.parametrize(
    ("stderr", "kind", "hint"),
    [
        ("sbatch: error: invalid partition specified: gpuu\n", ConfigError, "slurm.partition"),
        (
            "sbatch: error: Batch job submission failed: Invalid account or account/partition combination specified",
            ConfigError,
            "slurm.account",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested time limit is invalid",
            ConfigError,
            "resources.time_limit",
        ),
        (
            "sbatch: error: Batch job submission failed: Requested node configuration is not available",
            ConfigError,
            "resources",
        ),
        ("sbatch: unrecognized option '--nicee=1'", ConfigError, "slurm.extra"),
        ("sbatch: error: Munge encode failed: Failed to access ...", SchedulerAwayError, "munge"),
        (
            "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
            SchedulerAwayError,
            "slurmctld",
        ),
        ("slurm_load_jobs error: Zero Bytes were transmitted or received", SchedulerAwayError, "slurmctld"),
        (
            "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)",
            SchedulerError,
            "no more jobs",
        ),
        ("", ConfigError, "no reason"),
    ],
)
def test_complaints_are_put_into_a_users_words(stderr: str, kind: type[Exception], hint: str) -> None:
    error = explained("sbatch", stderr)
    assert type(error) is kind
    assert hint in str(error)


def test_a_machine_without_slurm_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="no `sbatch` on this machine"):
        client.submit("script", "1")
