"""What the launcher calls on this machine. What acts is imported only when it must: `render` is to come at once."""

import sys
from typing import TYPE_CHECKING

from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.storage import Storage
from torchrelay.contract.storage_options import to_environment
from torchrelay_launch.backends.base import HIDDEN, Command, LastWords, RunRef, Submission
from torchrelay_launch.backends.first_start import first_torchrun
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.supervisor.options import NodeOptions

if TYPE_CHECKING:
    from torchrelay_launch.backends.local.supervisors import LocalHandle

LOOPBACK = "127.0.0.1"
PORT_SHOWN = f"{LOOPBACK}:0"  # chosen by the kernel when it starts


class LocalBackend:
    """Runs jobs on this machine."""

    name = "local"

    def render(self, job: JobSpec, run: RunRef) -> Submission:
        """What would be executed; ports and scratch folders, which are chosen at the start, show as 0 and SCRATCH."""
        nodes = range(job.resources.nodes.minimum)
        return Submission(
            backend=self.name,
            job=job,
            run=run,
            submits=tuple(_supervisor(job, run, node) for node in nodes),
            starts=tuple(_torchrun(job, run, node) for node in nodes),
            warnings=tuple(_not_honoured(job)),
        )

    def submit(self, submission: Submission, *, tethered: bool) -> "LocalHandle":
        """Start the supervisors and wait until the first has shown itself. Raises: ConfigError, with the reason."""
        from torchrelay_launch.backends.local.supervisors import start

        return start(submission, tethered=tethered)

    def status(self, storage: Storage, attempt: int) -> RunState | None:
        """Whether the supervisor of node 0 runs on this machine; None if it does not, or ran elsewhere."""
        from torchrelay_launch.backends.local.supervisors import state_of

        return state_of(storage, attempt)

    def logs(self, storage: Storage, attempt: int) -> list[str]:
        """The nodes' logs, which the supervisors write into the run's storage."""
        from torchrelay.contract import records

        return records.node_logs(storage, attempt)

    def last_words(self, storage: Storage, attempt: int, known: set[str]) -> list[LastWords]:  # noqa: ARG002
        """None: all that nodes print is in their logs."""
        return []

    def stop(self, storage: Storage) -> None:
        """Ask for a clean stop, which the supervisor sees within a few seconds. Raises: ConfigError if nothing runs."""
        from torchrelay_launch.runs.stop import request_stop

        request_stop(storage, "stop")

    def cancel(self, storage: Storage) -> None:
        """End it now, and wait for the end; a supervisor that does not answer is killed with all below it."""
        from torchrelay_launch.backends.local.supervisors import end

        end(storage)


def _supervisor(job: JobSpec, run: RunRef, node: int) -> Command:
    options = NodeOptions(run.url, run.attempt, node, job.resources.nodes.minimum, PORT_SHOWN)
    argv = (sys.executable, "-m", "torchrelay_launch", "node", *options.argv())
    return Command(f"node {node}: supervisor", argv, _hidden(job) | to_environment(job.storage_options))


def _torchrun(job: JobSpec, run: RunRef, node: int) -> Command:
    return first_torchrun(job, run, node, LOOPBACK, sys.executable, to_environment(job.storage_options))


def _hidden(job: JobSpec) -> dict[str, str]:
    return dict.fromkeys(job.secrets, HIDDEN)


def _not_honoured(job: JobSpec) -> list[str]:
    """Keys that have no effect here; those of other backends are no mistake, a spec is for all of them."""
    return ["resources.memory: memory is not limited on this machine"] if job.resources.memory is not None else []
