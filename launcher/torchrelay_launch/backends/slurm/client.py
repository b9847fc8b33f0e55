"""Slurm's commands: running them, and saying in a user's words why one failed."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay.contract.exit_codes import ExitCode

T = TypeVar("T")
LIMIT_S = 60.0
LONGEST_WAIT_S = 10.0
GONE = "Invalid job id specified"


class SchedulerError(TorchrelayError):
    """Slurm itself does not answer, or has no room now; trying again later may help. Exit code 74, as for storage."""

    exit_code = ExitCode.STORAGE


class SchedulerAwayError(SchedulerError):
    """Slurm does not answer at all, so nothing is known of its jobs."""


@dataclass(frozen=True)
class Job:
    """One job as `squeue` or `scontrol` shows it."""

    job_id: str
    state: str
    reason: str = ""
    nodes: str = ""  # as a host list, such as n[1-2]
    expected_start: str = ""
    restarts: int = 0


def call(*argv: str, env: Mapping[str, str] | None = None, limit_s: float = LIMIT_S) -> str:
    """Run one command and return its output. Raises: ConfigError, SchedulerError."""
    return _called(argv, env, limit_s).stdout


def _called(
    argv: Sequence[str], env: Mapping[str, str] | None = None, limit_s: float = LIMIT_S, given: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """Run one command to its end. `given`: what it reads. Raises: ConfigError, SchedulerError."""
    if shutil.which(argv[0]) is None:
        raise ConfigError(
            f"there is no `{argv[0]}` on this machine, so it cannot reach Slurm; use a login node, or --on local"
        )
    environment = {**(os.environ if env is None else env), "LC_ALL": "C", "SLURM_TIME_FORMAT": "standard"}
    try:
        done = subprocess.run(
            argv, env=environment, text=True, capture_output=True, timeout=limit_s, check=False, input=given
        )
    except subprocess.TimeoutExpired:
        raise SchedulerAwayError(
            f"`{argv[0]}` did not answer within {limit_s:g} s; `scontrol ping` shows how Slurm is"
        ) from None
    if done.returncode != 0:
        raise explained(argv[0], done.stderr or done.stdout)
    return done


def patiently(ask: Callable[[], T], until: float) -> T:
    """What `ask` returns once Slurm answers, asked again `until` this time.monotonic(). Raises: TorchrelayError."""
    wait_s = 1.0
    while True:
        try:
            return ask()
        except SchedulerAwayError:
            if time.monotonic() + wait_s > until:
                raise
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def submit(script: str, *arguments: str, options: Sequence[str] = ()) -> str:
    """Submit a script. Returns the job's id. Raises: ConfigError, SchedulerError."""
    output = call("sbatch", "--parsable", "--export=ALL", *options, script, *arguments, env=_harmless_environment())
    return output.strip().split(";")[0]


def rehearse(script: str) -> str:
    """Ask Slurm whether it would take a script. `script`: its text. Returns when, where and on how much it would run.

    Raises: ConfigError with what it says against it; SchedulerError.
    """
    said = _called(["sbatch", "--test-only"], _harmless_environment(), given=script).stderr
    found = re.search(r"Job \S+ (to start at .*)", said)
    return found[1].strip() if found else "accepted"


def find_job(job_id: str) -> Job | None:
    """A job as slurmctld knows it, which forgets it some minutes after its end. Raises: SchedulerError."""
    fields = show("job", job_id)
    if not fields:
        return None
    return Job(
        job_id,
        fields.get("JobState", ""),
        fields.get("Reason", "").replace("None", ""),
        fields.get("NodeList", "").replace("(null)", ""),
        fields.get("StartTime", "").replace("Unknown", ""),
        int(fields.get("Restarts", "0")),
    )


def show(kind: str, name: str) -> dict[str, str]:
    """What `scontrol show` says of a job or node; empty if there is none. Raises: SchedulerError."""
    try:
        output = call("scontrol", "--oneliner", "show", kind, name)
    except ConfigError as error:
        if "nvalid" in str(error) or "not found" in str(error):
            return {}
        raise
    return _fields(output)


def partitions() -> dict[str, dict[str, str]]:
    """What `scontrol show` says of each partition, by name, hidden ones too. Raises: ConfigError, SchedulerError."""
    shown = [_fields(line) for line in call("scontrol", "--all", "--oneliner", "show", "partition").splitlines()]
    return {fields["PartitionName"]: fields for fields in shown if "PartitionName" in fields}


def _fields(line: str) -> dict[str, str]:
    return dict(re.findall(r"(?:^|\s)([A-Za-z][\w/:]*)=(\S*)", line))


def config(limit_s: float = LIMIT_S) -> dict[str, str]:
    """Slurm's settings by name, as slurmctld has them; `asof` is its clock. Raises: ConfigError, SchedulerError."""
    output = call("scontrol", "show", "config", limit_s=limit_s)
    found: dict[str, str] = dict(re.findall(r"^(\w+)\s+= (.*?)\s*$", output, re.MULTILINE))
    asof = re.search(r"Configuration data as of (\S+)", output)
    return found | {"asof": asof[1] if asof else ""}


def requeue_hold_s(settings: Mapping[str, str]) -> float:
    """Seconds for which Slurm keeps a requeued job waiting, by its settings as `config` returns them.

    slurm.conf(5): SchedulerParameters=requeue_delay, which 26.05 has, or else AuthInfo=cred_expire, 120 by default.
    """
    for setting, option in (("SchedulerParameters", "requeue_delay"), ("AuthInfo", "cred_expire")):
        found = re.search(rf"(?:^|,){option}=(\d+)", settings.get(setting, ""))
        if found:
            return float(found[1])
    return 120.0


def hostnames(host_list: str) -> list[str]:
    """The single names of n[1-3]."""
    return call("scontrol", "show", "hostnames", host_list).split() if host_list else []


def accounted(job_id: str) -> list[tuple[str, str, str]]:
    """State, exit code and nodes of every start of a job, oldest first; empty where there is no accounting."""
    try:
        output = call("sacct", "-n", "-P", "-X", "-D", "-j", job_id, "-o", "State,ExitCode,NodeList")
    except TorchrelayError:
        return []
    rows = [line.split("|") for line in output.splitlines()]
    return [(row[0], row[1], row[2]) for row in rows if len(row) == 3]


def cancel(job_ids: Sequence[str]) -> None:
    """Cancel jobs; those that have ended already are no mistake. Raises: SchedulerError."""
    for job_id in job_ids:
        try:
            call("scancel", "--quiet", job_id)
        except ConfigError as error:
            if GONE not in str(error) and "already" not in str(error):
                raise


def explained(command: str, stderr: str) -> TorchrelayError:
    """The error that a command's complaint stands for."""
    lines = [re.sub(rf"^{command}: (?:error|fatal): ", "", line).strip() for line in stderr.splitlines()]
    said = "; ".join(dict.fromkeys(line for line in lines if line)) or "it gave no reason"
    for kind, hints in ((SchedulerAwayError, _AWAY), (SchedulerError, _NOT_NOW), (ConfigError, _REFUSED)):
        for pattern, hint in hints:
            if re.search(pattern, said, re.IGNORECASE):
                return kind(f"{hint} ({command} says: {said})")
    return ConfigError(f"Slurm refuses: {said}")


def _harmless_environment() -> dict[str, str]:
    """What sbatch needs of this environment, and what it may write down: the rest comes from the run's own file.

    With any other `--export` than ALL, Slurm 22.05 also runs a login shell of the user before every job, which took 0.4
    to 1.2 s here and is known to fail.
    """
    return {name: value for name, value in os.environ.items() if _HARMLESS.fullmatch(name)}


# A job that submits another must not hand its own SLURM_ variables down.
_HARMLESS = re.compile(
    r"PATH|LD_LIBRARY_PATH|HOME|USER|LOGNAME|SHELL|LANG|LC_\w+|TZ|KRB5CCNAME|SLURM_(CONF|CLUSTERS|TIME_FORMAT)"
    r"|SBATCH_(?!EXPORT)\w+"
)
_AWAY = (
    (r"munge|authentication|credential", "munge does not work on this machine; ask whoever runs it to start munged"),
    (r"unable to contact|connection refused|connect failure|timed out|not responding|unable to connect|backup mode"
     r"|zero bytes|communication|message (receive|send) failure|transport endpoint",
     "slurmctld does not answer; `scontrol ping` shows whether it is up"),
)  # fmt: skip
_NOT_NOW = (
    (r"establish a configuration source|configuration file|SLURM_CONF", "Slurm is not configured on this machine"),
    (r"temporarily unable|submit.{0,20}limit|MaxSubmitJob|resource temporarily",
     "Slurm takes no more jobs from you now"),
)  # fmt: skip
_REFUSED = (
    (r"invalid partition", "slurm.partition: there is no such partition; `sinfo --summarize` lists them"),
    (r"invalid account|account.{0,20}(not|invalid)",
     "slurm.account: you may not charge that; `sacctmgr show associations user=$USER` lists yours"),
    (r"invalid qos", "slurm.qos: there is no such QOS for you; `sacctmgr show qos` lists them"),
    (r"invalid feature|constraint", "slurm.constraint: no node has these features; `sinfo -o '%20N %f'` lists them"),
    (r"reservation", "slurm.reservation: you cannot use that reservation; `scontrol show reservation` lists them"),
    (r"gres|generic resource",
     "slurm.gres or resources.gpus_per_node: no node has these; `sinfo -o '%20N %G'` lists them"),
    (r"time limit|timelimit", "resources.time_limit: longer than allowed here; `sinfo -o '%P %l'` lists the limits"),
    (r"node count|nodes? (?:requested|configuration)|more processors|cpu count|memory",
     "resources: no set of nodes there can ever hold this job; `sinfo -o '%P %D %c %m'` lists what there is"),
    (r"unrecognized option|invalid directive|unknown option", "slurm.extra: sbatch does not know one of these options"),
    (r"job array", "sweep: this cluster takes only smaller arrays (`scontrol show config | grep MaxArraySize`); "
     "try --set slurm.array=false"),
    (r"dependency", "slurm.dependency: not understood; write it as in afterok:1234"),
)  # fmt: skip
