"""What the batch script becomes on the first node: it claims the attempt, starts srun, and decides how the run goes on.

    python -m torchrelay_launch.backends.slurm.job --run URL --attempt N -- srun ...

It is written to be killed at any moment: whatever must happen once is claimed in storage first, and a job that Slurm
requeues by itself finds there how far the last start came.
"""

import argparse
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType

from torchrelay.contract import environment, layout, records
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.records import StopRequest
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch.backends.slurm import attempts, causes, journal, policy, script
from torchrelay_launch.backends.slurm.attempts import Start, Task
from torchrelay_launch.backends.slurm.journal import End, Past
from torchrelay_launch.backends.slurm.meeting_point import meeting_point
from torchrelay_launch.backends.slurm.policy import Next, Verdict
from torchrelay_launch.backends.slurm.states import Cause
from torchrelay_launch.backends.slurm.succession import SCRIPT, Succession
from torchrelay_launch.supervisor.options import TOKEN_VARIABLE

COORDINATOR = "TORCHRELAY_COORDINATOR"
LOOK_S = 0.2


class BatchJob:
    """The job on its first node. `srun`: the command that starts the supervisors."""

    def __init__(self, storage: Storage, start: Start, srun: list[str]) -> None:
        self._storage, self._start, self._srun = storage, start, srun
        self._terminated = False
        self._output = Path(os.environ.get(SCRIPT, "")).parent / f"job-{start.job_id}.out"
        self._offset = self._output.stat().st_size if self._output.exists() else 0
        signal.signal(signal.SIGTERM, self._note)
        for ignored in (signal.SIGUSR1, signal.SIGINT, signal.SIGHUP, signal.SIGCONT):
            signal.signal(ignored, signal.SIG_IGN)

    def run(self, submitted: int) -> int:
        """Run attempts until the run is over or goes on as another job. Returns the exit code of the job."""
        number = attempts.find(self._storage, self._start, submitted)
        while True:
            task = attempts.begin(self._storage, self._start, number)
            listed = ", ".join(f"{index} {name}" for index, name in enumerate(self._start.nodes))
            say(f"attempt {number}, job {self._start.job_id}, nodes {listed}")
            code = self._supervise(task)
            end = self._end(task, code)
            verdict = self._judge(task, end)
            say(verdict.says)
            if verdict.next is Next.FINISH:
                return self._finish(task, end, verdict)
            number = attempts.claim_next(self._storage, task.number, self._start.job_id)
            if verdict.next is Next.SUBMIT:
                return self._hand_on(task, end, verdict, number)
            self._write(task, end, verdict, self._start.job_id)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self._terminated = True

    def _supervise(self, task: Task) -> int:
        """Run srun to its end, or until the attempt has its outcome and Slurm waits for this job to end."""
        mine = {
            environment.ATTEMPT: str(task.number),
            COORDINATOR: meeting_point(self._start.job_id, self._start.nodes),
            TOKEN_VARIABLE: os.urandom(16).hex(),
        }
        process = subprocess.Popen(self._srun, env={**os.environ, **mine}, stdin=subprocess.DEVNULL)
        while (code := process.poll()) is None:
            if self._terminated and journal.outcome_of(self._storage, task.number) is not None:
                process.returncode = 0  # no time to wait for it: this process is killed at the end of KillWait
                return 0
            time.sleep(LOOK_S)
        return code if code >= 0 else 128 - code

    def _end(self, task: Task, code: int) -> End:
        """What ended the attempt. Writes what nobody else has: an outcome, and who stopped it."""
        words = causes.read_words(self._output, self._offset)
        evidence = causes.gather(self._storage, task.number, task.begin, words, terminated=self._terminated)
        cause = causes.cause_of(dataclasses.replace(evidence, srun_code=code))
        if evidence.outcome is None:
            attempts.conclude_silent(self._storage, task.number, cause, f"srun ended with exit code {code}")
        if cause is Cause.STOPPED and evidence.stop is None:
            request = StopRequest("stop", time.time(), f"scancel of job {self._start.job_id}")
            self._storage.replace(layout.attempt_file(task.number, "stop"), records.dump(request))
        exit_code = evidence.outcome.exit_code if evidence.outcome else code
        step = journal.newest_step(self._storage)
        return End(cause, "", time.time(), step, evidence.failed_nodes, exit_code=exit_code)

    def _judge(self, task: Task, end: End) -> Verdict:
        """Decide what follows."""
        past = [*journal.history(self._storage)[:-1], Past(task.number, task.begin, end)]
        left = not self._terminated and not end.failed_nodes
        verdict = policy.decide(past, task.job.slurm.retries, allocation_left=left)
        if verdict.next is Next.SUBMIT and task.job.slurm.requeue == "never":
            return Verdict(Next.FINISH, f"{end.cause}, and {policy.NEVER}")
        return verdict

    def _finish(self, task: Task, end: End, verdict: Verdict) -> int:
        self._write(task, end, verdict, "")
        script.forget_environment(os.environ.get(SCRIPT, ""))
        return end.exit_code or (0 if end.cause is Cause.COMPLETED else int(ExitCode.PREEMPTED))

    def _hand_on(self, task: Task, end: End, verdict: Verdict, number: int) -> int:
        """Let another job, or this one again, run attempt `number`."""
        succession = Succession(self._storage, self._start, task, number)
        next_job = succession.hand_on(verdict.exclude, preempted=end.cause is Cause.PREEMPTED)
        self._write(task, end, verdict, next_job)
        say(f"the run goes on as attempt {number}, job {next_job}")
        succession.let_go(next_job)
        return int(ExitCode.PREEMPTED)

    def _write(self, task: Task, end: End, verdict: Verdict, next_job: str) -> None:
        journal.write_end(self._storage, task.number, dataclasses.replace(end, says=verdict.says, next_job=next_job))


def say(text: str) -> None:
    """A line into the job's output."""
    print(f"torchrelay: {text}", flush=True)  # noqa: T201 - an entry point


def main(argv: list[str]) -> int:
    """Run the job. Returns its exit code."""
    parser = argparse.ArgumentParser(prog="torchrelay slurm job", allow_abbrev=False)
    parser.add_argument("--run", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("srun", nargs=argparse.REMAINDER)
    given = parser.parse_args(argv)
    try:
        return BatchJob(open_storage(given.run), Start.from_environment(), given.srun[1:]).run(given.attempt)
    except TorchrelayError as error:
        say(str(error))
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
