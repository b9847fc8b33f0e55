"""What `torchrelay doctor --on slurm` looks at from where it runs. A file is made and removed, nothing else changed."""

import getpass
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from torchrelay.contract.errors import TorchrelayError
from torchrelay_launch.backends.base import Finding, RunRef
from torchrelay_launch.backends.slurm import allocation, client, partitions
from torchrelay_launch.backends.slurm.backend import SlurmBackend, job_folder
from torchrelay_launch.runs.locate import open_for
from torchrelay_launch.spec.models import JobSpec

OLDEST = (22, 5)  # not tried on anything older
COMMANDS = ("sbatch", "scontrol", "scancel", "sinfo", "srun")
LOCAL_FILE_SYSTEMS = {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "ramfs"}
CLOCK_LIMIT_S = 10.0


@dataclass(frozen=True)
class Place:
    """What is examined: a job, or what any job has, and where its runs would be kept."""

    job: JobSpec
    url: str
    config: dict[str, str]

    @property
    def run(self) -> RunRef:
        return RunRef("doctor", f"{self.url.rstrip('/')}/doctor", 1, str(Path.cwd()))


def examine(job: JobSpec | None, storage_url: str) -> Iterator[Finding]:
    """Look at everything that a job needs, or any job if none is given."""
    missing = [name for name in COMMANDS if shutil.which(name) is None]
    if missing:
        says = f"not on this machine: {', '.join(missing)}; log in to a node from which jobs are submitted"
        yield Finding("commands", says, ok=False)
        return
    try:
        place = Place(job or allocation.any_job(), storage_url, client.config())
        yield from _controller(place)
    except TorchrelayError as error:
        yield Finding("slurmctld", str(error), ok=False)
        return
    checks: list[Callable[[Place], Iterator[Finding]]] = [_clock, _accounting, _partition, _account, _stops, _going_on]
    for check in [*checks, _storage, _folder, *([_submission] if job else [])]:
        try:
            yield from check(place)
        except TorchrelayError as error:
            yield Finding(check.__name__.strip("_"), str(error), ok=False)


def probe(job: JobSpec | None, storage_url: str, say: Callable[[str], None]) -> Iterator[Finding]:
    """Look at the nodes too, in an allocation of two minutes. `say`: told what is being waited for."""
    try:
        yield from allocation.look(job or allocation.any_job(), storage_url, say)
    except TorchrelayError as error:
        yield Finding("allocation", str(error), ok=False)


def _controller(place: Place) -> Iterator[Finding]:
    lines = [line.strip() for line in client.call("scontrol", "ping").splitlines() if line.strip()]
    yield Finding("slurmctld", "; ".join(lines), ok=any(line.endswith("UP") for line in lines))
    text = client.call("scontrol", "--version").strip()
    numbers = tuple(int(part) for part in re.findall(r"\d+", text)[:2])
    says = text if numbers >= OLDEST else f"{text}, and nothing before {OLDEST[0]}.{OLDEST[1]:02d} was tried"
    yield Finding("version", says, ok=True if numbers >= OLDEST else None)
    kind = place.config.get("AuthType", "auth/munge").removeprefix("auth/")
    yield Finding(kind, "slurmctld takes the credential of this machine", ok=True)


def _clock(place: Place) -> Iterator[Finding]:
    try:
        theirs = time.mktime(time.strptime(place.config["asof"], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return
    apart = abs(time.time() - theirs)
    if apart <= CLOCK_LIMIT_S:
        yield Finding("clock", "the same as slurmctld's, to some seconds", ok=True)
    else:
        says = f"{apart:.0f} s apart from slurmctld's: munge refuses from 300 s on; have both follow one time server"
        yield Finding("clock", says, ok=False)


def _accounting(place: Place) -> Iterator[Finding]:
    kind = place.config.get("AccountingStorageType", "")
    without = "; `status` then knows what slurmctld remembers and what the run itself wrote, which is enough to go on"
    if kind in ("", "(null)", "accounting_storage/none"):
        yield Finding("accounting", f"there is none{without}", ok=None)
        return
    try:
        client.call("sacct", "--noheader", "--allocations", "--starttime=now")
        yield Finding("accounting", "sacct answers", ok=True)
    except TorchrelayError as error:
        yield Finding("accounting", f"{error}{without}", ok=None)


def _partition(place: Place) -> Iterator[Finding]:
    known = client.partitions()
    named = place.job.slurm.partition or partitions.default(known)
    if not named:
        yield Finding("partition", "there is no default partition: name one in slurm.partition", ok=False)
        return
    partitions.check(place.job)
    for name in named.split(","):
        yield from _one_partition(place, name, known.get(name, {}))


def _one_partition(place: Place, name: str, fields: dict[str, str]) -> Iterator[Finding]:
    state = fields.get("State", "UP")
    if state != "UP":
        yield Finding("partition", f"{name} is {state}, so that jobs do not start there; name another", ok=False)
    counted = dict(_counts(name))
    says = f"{name}: {fields.get('TotalNodes', '?')} nodes"
    says += f" ({', '.join(f'{count} {state}' for state, count in sorted(counted.items()))})" if counted else ""
    yield Finding("partition", f"{says}, at most {fields.get('MaxTime', '?')} per job", ok=True)
    if place.job.resources.time_limit is None:
        limit = fields.get("DefaultTime", "NONE").replace("NONE", fields.get("MaxTime", "?"))
        says = f"resources.time_limit is not set, so each job of the run gets {limit}"
        yield Finding("time limit", says, ok=None)
    wanted, idle = place.job.resources.nodes.minimum, counted.get("idle", 0)
    if idle < wanted:
        says = f"{idle} of the {wanted} nodes that the job needs are idle in {name} now: it will wait, or share nodes"
        yield Finding("idle", says, ok=None)


def _counts(partition: str) -> Iterator[tuple[str, int]]:
    for line in client.call("sinfo", "--noheader", f"--partition={partition}", "--format=%t %D").splitlines():
        state, _, count = line.strip().partition(" ")
        if count.strip().isdigit():
            yield state, int(count)


def _account(place: Place) -> Iterator[Finding]:
    """Whether the user may charge what the job names, where that is enforced."""
    if "associations" not in place.config.get("AccountingStorageEnforce", ""):
        return
    user = getpass.getuser()
    argv = ("show", "associations", f"user={user}", "format=Account,QOS")
    rows = [line.split("|") for line in client.call("sacctmgr", "-nP", *argv).splitlines()]
    accounts = {row[0] for row in rows}
    qos = {name for row in rows if len(row) > 1 for name in row[1].split(",")}
    for what, wanted, known in (("account", place.job.slurm.account, accounts), ("qos", place.job.slurm.qos, qos)):
        listed = ", ".join(sorted(known)) or "none"
        if wanted and wanted not in known:
            yield Finding(what, f"slurm.{what}: {user} may not use {wanted!r}; there is: {listed}", ok=False)
        else:
            yield Finding(what, wanted or f"of {user}: {listed}", ok=bool(known))


def _stops(place: Place) -> Iterator[Finding]:
    """How much time a run has to save when Slurm ends its job."""
    grace = place.job.restarts.grace
    limit = place.job.resources.time_limit
    told = f"the job is told {grace} before it" + (f", of {limit}" if limit else "")
    yield Finding("time limit", told, ok=True)
    wait = _leading_number(place.config.get("KillWait", ""))
    mode = place.config.get("PreemptMode", "OFF")
    says = f"preemption is {mode}; from SIGTERM to SIGKILL Slurm waits {wait} s (KillWait)"
    if wait is None or wait >= grace:
        yield Finding("KillWait", says, ok=True)
        return
    says += (
        f", and restarts.grace is {grace}: a preempted or cancelled job whose save takes longer than {wait} s goes back"
    )
    yield Finding(
        "KillWait", f"{says} to its last checkpoint; save often enough, or ask for a longer KillWait", ok=None
    )


def _going_on(place: Place) -> Iterator[Finding]:
    mode, hold = place.job.slurm.requeue, f"{client.requeue_hold_s(place.config):g} s"
    if mode == "never":
        says = "slurm.requeue is never: the run ends with its first job, and `torchrelay resume` goes on"
    elif mode == "requeue":
        says = f"slurm.requeue is requeue: the same job again, which Slurm holds for {hold} each time"
    else:
        says = f"after a stop the run goes on as a new job, since a requeued one is held for {hold}"
        says += "; --probe checks that the nodes may submit one"
    yield Finding("requeue", says, ok=None)
    if place.config.get("JobRequeue") == "0" and mode != "never":
        says = "JobRequeue is 0 here, but each job asks for --requeue itself"
        yield Finding("requeue", says, ok=None)


def _storage(place: Place) -> Iterator[Finding]:
    """Make a file where runs are kept, which has to be exclusive, read it and remove it."""
    storage = open_for(place.job, place.url)
    name = f".doctor-{secrets.token_hex(4)}"
    storage.create(name, b"doctor")
    try:
        storage.create(name, b"again")
        yield Finding("storage", f"{place.url} lets a file be made twice, so claims do not hold there", ok=False)
    except FileExistsError:
        yield Finding("storage", f"{place.url} can be written to from here", ok=True)
    finally:
        storage.delete(name)


def _folder(place: Place) -> Iterator[Finding]:
    """Whether what the nodes need looks as if they saw it too."""
    for what, folder in (("job folder", Path(job_folder(place.run)).parent.parent), ("workdir", Path.cwd())):
        kind = file_system_of(folder)
        if kind in LOCAL_FILE_SYSTEMS:
            says = f"{folder} is on {kind} of this machine: nodes see it only if it is theirs too; --probe finds out"
            yield Finding(what, says, ok=None)
        else:
            yield Finding(what, f"{folder} ({kind or 'file system not known'})", ok=True)


def file_system_of(path: Path, mounts: str = "/proc/self/mounts") -> str:
    """Kind of the file system that holds a path, by the longest mount point above it; empty if that is not known."""
    try:
        lines = [line.split() for line in Path(mounts).read_text().splitlines()]
    except OSError:
        return ""
    real = os.path.realpath(path)
    points = [(line[1].replace("\\040", " "), line[2]) for line in lines if len(line) > 2]
    above = [(point, kind) for point, kind in points if f"{real}/".startswith(f"{point.rstrip('/')}/")]
    return max(above, key=lambda one: len(one[0]), default=("", ""))[1]


def _submission(place: Place) -> Iterator[Finding]:
    """What sbatch says to the very script."""
    backend = SlurmBackend()
    (said,) = backend.rehearse(backend.render(place.job, place.run))
    yield Finding("sbatch", said.partition(", ")[2], ok=True)


def _leading_number(text: str) -> int | None:
    found = re.match(r"\d+", text)
    return int(found[0]) if found else None
