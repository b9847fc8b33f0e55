"""Looking at the nodes that a job would get: a job of two minutes with one task on each."""

import dataclasses
import json
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from torchrelay.contract import node_report
from torchrelay.contract.errors import StorageError
from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.node_report import NodeReport
from torchrelay.contract.storage import Storage
from torchrelay.contract.units import Duration, NodeCount
from torchrelay_launch.backends.base import Finding, RunRef
from torchrelay_launch.backends.slurm import client, node_findings, script, shell_environment
from torchrelay_launch.backends.slurm.backend import job_folder, write_environment, write_script
from torchrelay_launch.backends.slurm.client import Job
from torchrelay_launch.backends.slurm.states import ALIVE, run_state
from torchrelay_launch.runs.locate import open_for
from torchrelay_launch.spec.models import JobSpec, Resources

LIMIT = Duration(120)
LOOK_S = 1.0
LATE_S = 10.0  # how long a report may take from a node to here
SHOWN_LINES = 5


def any_job() -> JobSpec:
    """What is looked at where no job is given: one process on each of two nodes."""
    return JobSpec(name="doctor", script="", resources=Resources(nodes=NodeCount(2, 2)))


def look(job: JobSpec, storage_url: str, say: Callable[[str], None]) -> Iterator[Finding]:
    """Submit the job, wait for its end, and say what the nodes found. Leaves nothing behind.

    `say` is told what is being waited for. Raises: TorchrelayError if it cannot be submitted.
    """
    name = f".doctor-{secrets.token_hex(4)}"
    run = RunRef(name, f"{storage_url.rstrip('/')}/{name}", 1, str(Path.cwd()))
    storage, folder = open_for(job, run.url), Path(job_folder(run))
    job_id = ""
    try:
        job_id = _submit(_shortened(job), run)
        ended = _wait(job_id, say)
        job_id = ""
        yield from _concluded(job, storage, ended, folder)
    finally:
        if job_id:
            client.cancel([job_id])
        storage.delete("")
        shutil.rmtree(folder, ignore_errors=True)


def _shortened(job: JobSpec) -> JobSpec:
    """The same job as far as nodes and rights are concerned, for two minutes and once."""
    slurm = dataclasses.replace(job.slurm, requeue="never", dependency=None, mail_user=None, mail_type=None)
    return dataclasses.replace(
        job,
        name=f"{job.name[:40]}-doctor",
        code="live",
        slurm=slurm,
        resources=dataclasses.replace(job.resources, time_limit=LIMIT),
        restarts=dataclasses.replace(job.restarts, grace=Duration(10)),
    )


def _submit(job: JobSpec, run: RunRef) -> str:
    shell_environment.check_secrets(job.secrets)
    folder = job_folder(run)
    path = script.script_file(folder, run.attempt)
    write_script(path, script.render_look(job, run, folder))
    write_environment(job, run, path, job.env)
    return client.submit(path)


def _wait(job_id: str, say: Callable[[str], None]) -> Job | None:
    """The job when it has ended. Raises: SchedulerError."""
    said = ""
    while (job := client.find_job(job_id)) is not None and run_state(job.state) in ALIVE:
        waits = run_state(job.state) is RunState.PENDING
        now = f"job {job_id} waits: {job.reason or job.state}" if waits else f"job {job_id} looks at {job.nodes}"
        if now != said:
            say(now)
        said = now
        time.sleep(LOOK_S)
    return job


def _concluded(job: JobSpec, storage: Storage, ended: Job | None, folder: Path) -> Iterator[Finding]:
    first = _first_node(storage)
    reports = _reports(storage, len(node_findings.names(first)))
    if not reports:
        state = ended.state if ended else "gone"
        says = f"no node reported to {storage.url}, and the job ended as {state}: can the nodes see that folder?"
        yield Finding("allocation", says + _last_words(folder), ok=False)
        return
    yield from node_findings.conclude(reports, first, job)
    if any(report.stage != node_report.DONE for report in reports.values() if report):
        yield Finding("output", f"of the nodes:{_last_words(folder)}", ok=None)


def _first_node(storage: Storage) -> dict[str, object]:
    """What the batch script said; nothing if nothing came."""
    deadline = time.monotonic() + LATE_S
    while time.monotonic() < deadline:
        try:
            found = json.loads(storage.read(node_report.FIRST_NODE))
        except FileNotFoundError:
            time.sleep(LOOK_S)
            continue
        except ValueError as error:
            raise StorageError(f"{storage.url}/{node_report.FIRST_NODE} is damaged: {error}") from error
        return found if isinstance(found, dict) else {}
    return {}


def _reports(storage: Storage, nodes: int) -> dict[int, NodeReport | None]:
    """Every node's last report; None for one that wrote none. Empty if none did."""
    found = {node: node_report.read(storage, node) for node in range(nodes)}
    return found if any(found.values()) else {}


def _last_words(folder: Path) -> str:
    """The end of what the job printed."""
    for file in sorted(folder.glob("job-*.out")):
        lines = [line for line in file.read_text(errors="replace").splitlines() if line.strip()]
        if lines:
            return "".join(f"\n{' ' * 17}| {line}" for line in lines[-SHOWN_LINES:])
    return " It printed nothing."
