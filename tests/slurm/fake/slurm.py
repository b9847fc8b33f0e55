"""A stateful stand-in for Slurm's commands, for quick tests: one file of state, jobs as processes of this machine.

    python slurm.py COMMAND ARGUMENTS...     as sbatch, squeue, scontrol, scancel, sacct, sinfo or srun

SLURM_CONF names the folder of the state. A job starts at once unless the state says `hold`. Nodes are n1 to n4. What it
knows is what torchrelay asks for, in the words of Slurm 22.05.
"""

import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["SLURM_CONF"])
NODES = ["n1", "n2", "n3", "n4"]
KILL_WAIT_S = 5.0
State = dict[str, Any]


@contextmanager
def state() -> Iterator[State]:
    """The state, held by one process at a time, written back at the end."""
    path = FOLDER / "state.json"
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        values: State = json.loads(path.read_text()) if path.exists() else {"jobs": {}, "nodes": {}, "hold": False}
        yield values
        path.write_text(json.dumps(values, indent=1))


def sbatch(argv: list[str]) -> int:
    given = [one.removeprefix("--").partition("=") for one in argv if one.startswith("--")]
    options = {name: value for name, _, value in given}
    script, *arguments = [one for one in argv if not one.startswith("--")] or ["-"]
    text = sys.stdin.read() if script == "-" else Path(script).read_text()
    for name, quoted, plain in re.findall(r'^#SBATCH --([a-z-]+)(?:="((?:[^"\\]|\\.)*)"|=(\S+))?$', text, re.MULTILINE):
        options.setdefault(name, re.sub(r"\\(.)", r"\1", quoted) or plain)
    if options.get("partition", "main") != "main":
        print("sbatch: error: invalid partition specified: " + options["partition"], file=sys.stderr)
        return 1
    if "test-only" in options:
        print("sbatch: Job 9 to start at 2026-11-21T10:25:52 using 2 processors on nodes n[1-2]", file=sys.stderr)
        return 0
    with state() as now:
        job_id = str(len(now["jobs"]) + 1)
        names = tasks(job_id, options.get("array", ""))
        for name in names:
            now["jobs"][name] = {"state": "PENDING", "options": options, "script": script, "arguments": arguments}
            now["jobs"][name] |= {"restarts": 0, "nodes": [], "preempted": "None", "pid": 0, "begun": 0, "codes": []}
    for name in names:
        start(name)
    print(job_id)
    return 0


def tasks(job_id: str, array: str) -> list[str]:
    """The names of a job, or of the tasks of an array such as 1-6%2."""
    if not array:
        return [job_id]
    first, last = array.partition("%")[0].split("-")
    return [f"{job_id}_{index}" for index in range(int(first), int(last) + 1)]


def may_start(now: State, name: str) -> bool:
    """Whether as many tasks of an array as may run at once leave room for one more."""
    limit = now["jobs"][name]["options"].get("array", "").partition("%")[2]
    siblings = [job for other, job in now["jobs"].items() if other.partition("_")[0] == name.partition("_")[0]]
    return not limit or sum(job["state"] == "RUNNING" for job in siblings) < int(limit)


def named(now: State, job_id: str) -> list[str]:
    """The jobs that an id means: of an array without a task all of them."""
    return [name for name in now["jobs"] if job_id in (name, name.partition("_")[0])]


def start(job_id: str) -> None:
    """Begin a job that can begin: a process of its own runs the script and notes its end."""
    with state() as now:
        job = now["jobs"][job_id]
        excluded = set(job["options"].get("exclude", "").split(",")) | {
            n for n, s in now["nodes"].items() if s != "IDLE"
        }
        free = [node for node in NODES if node not in excluded]
        count = int(job["options"].get("nodes", "1").split("-")[0])
        if now["hold"] or job["state"] != "PENDING" or len(free) < count or not may_start(now, job_id):
            return
        job |= {"state": "RUNNING", "nodes": free[:count], "begun": job["begun"] + 1, "pid": 0}
    process = subprocess.Popen(
        [sys.executable, __file__, "_run", job_id],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,  # or whoever reads what sbatch prints would wait for the job
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    process.returncode = 0


def leaving(job: State) -> bool:
    """Whether a job has been ended and its script still runs."""
    return job["state"] not in ("PENDING", "RUNNING") and len(job["codes"]) < job["begun"]


def _run(argv: list[str]) -> int:
    """Be the batch step of a job."""
    with state() as now:
        job = now["jobs"][argv[0]]
    names = ("PATH", "SLURM_CONF", "HOME")
    environment = {name: os.environ[name] for name in names if name in os.environ} | {
        "SLURM_JOB_ID": raw_id(argv[0]),
        "SLURM_JOB_NODELIST": ",".join(job["nodes"]),
        "SLURM_JOB_NUM_NODES": str(len(job["nodes"])),
        "SLURM_RESTART_COUNT": str(job["restarts"]),
    }
    master, _, task = argv[0].partition("_")
    if task:
        environment |= {"SLURM_ARRAY_JOB_ID": master, "SLURM_ARRAY_TASK_ID": task}
    output = output_of(job, argv[0])
    with output.open("ab") as out:
        process = subprocess.Popen(
            ["bash", job["script"], *job["arguments"]], env=environment, stdout=out, stderr=out, start_new_session=True
        )
        with state() as now:
            now["jobs"][argv[0]]["pid"] = process.pid
        code = process.wait()
    with state() as now:
        job = now["jobs"][argv[0]]
        job["codes"].append(code)
        ends = {"RUNNING": "COMPLETED" if code == 0 else "FAILED", "REQUEUEING": "PENDING"}
        job["state"] = ends.get(job["state"], job["state"])
        waiting = [name for name in named(now, master) if now["jobs"][name]["state"] == "PENDING"]
    for name in dict.fromkeys([argv[0], *waiting]):
        start(name)
    return 0


def raw_id(name: str) -> str:
    """The number that a task has beside its name: the first has that of the whole array, as the last has in Slurm."""
    master, _, task = name.partition("_")
    return str(int(master) + int(task) - 1) if task else master


def output_of(job: State, name: str) -> Path:
    """The file that --output names for a job."""
    master, _, task = name.partition("_")
    values = {"%": "%", "j": raw_id(name), "A": master, "a": task, "3a": f"{int(task or 0):03d}"}
    return Path(re.sub(r"%(3a|[%jAa])", lambda place: values[place[1]], job["options"]["output"]))


def end(job_id: str, as_state: str, because: str = "") -> None:
    """What Slurm does to a running job: a word in its output, SIGTERM, and after KillWait SIGKILL."""
    with state() as now:
        job = now["jobs"][job_id]
        if job["state"] == "PENDING":
            job["state"] = as_state
            return
        if job["state"] != "RUNNING":
            return
        job["state"] = as_state
        job["restarts"] += as_state == "REQUEUEING"
        output = output_of(job, job_id)
    due = f" DUE TO {because}" if because else ""
    with output.open("a") as out:
        out.write(f"slurmstepd-n1: error: *** JOB {job_id} ON n1 CANCELLED AT 2026-11-21T10:25:52{due} ***\n")
    pid = process_of(job_id)
    os.killpg(pid, signal.SIGTERM)
    deadline = time.monotonic() + KILL_WAIT_S
    while time.monotonic() < deadline and Path(f"/proc/{pid}").exists():
        time.sleep(0.05)
    if Path(f"/proc/{pid}").exists():
        os.killpg(pid, signal.SIGKILL)


def process_of(job_id: str) -> int:
    """The script of a running job, which may just be about to start."""
    while True:
        with state() as now:
            if pid := now["jobs"][job_id]["pid"]:
                return int(pid)
        time.sleep(0.02)


def scancel(argv: list[str]) -> int:
    for job_id in [one for one in argv if not one.startswith("-")]:
        with state() as now:
            names = named(now, job_id)
        for name in names:
            end(name, "CANCELLED")
    return 0


CONFIG = """Configuration data as of {now}
AccountingStorageType   = accounting_storage/slurmdbd
AuthInfo                = socket=/run/munge/munge.socket.2,cred_expire=30
AuthType                = auth/munge
JobRequeue              = 1
KillWait                = 5 sec
PreemptMode             = REQUEUE"""


def scontrol(argv: list[str]) -> int:
    if argv == ["--version"]:
        print("slurm-wlm 22.05.8")
        return 0
    if argv == ["ping"]:
        print("Slurmctld(primary) at fake is UP")
        return 0
    if argv == ["show", "config"]:
        print(CONFIG.format(now=time.strftime("%Y-%m-%dT%H:%M:%S")))
        return 0
    words = [one for one in argv if not one.startswith("-")]
    if words[0] == "requeue":
        end(words[1], "REQUEUEING", "JOB REQUEUE")
    elif words[0] == "preempt":  # not Slurm's: tests call it
        end(words[1], "PREEMPTED", "PREEMPTION")
    elif words[0] == "lose":  # not Slurm's either: the first node goes, and Slurm requeues the job
        with state() as now:
            job = now["jobs"][words[1]]
            job["state"] = "REQUEUEING"
            job["restarts"] += 1
        os.killpg(process_of(words[1]), signal.SIGKILL)
    elif words[:2] == ["show", "hostnames"]:
        print("\n".join(words[2].split(",")))
    elif words == ["show", "partition"]:
        print(f"PartitionName=main Default=YES MaxTime=01:00:00 TotalNodes={len(NODES)} MaxNodes=UNLIMITED")
    else:
        return show(words[1], words[2])
    return 0


def show(kind: str, name: str) -> int:
    with state() as now:
        job, node = now["jobs"].get(name), now["nodes"].get(name, "IDLE")
    if kind == "node":
        print(f"NodeName={name} NodeAddr=127.0.0.1 State={node}")
    elif kind == "job" and job is not None:
        shown = "COMPLETING" if job["state"] == "REQUEUEING" or leaving(job) else job["state"]
        print(
            f"JobId={name} JobState={shown} Reason=None Restarts={job['restarts']} RunTime=00:00:10 "
            f"TimeLimit=01:00:00 PreemptTime={job['preempted']} NodeList={','.join(job['nodes']) or '(null)'}"
        )
    else:
        print(f"slurm_load_{kind}s error: Invalid {kind} id specified", file=sys.stderr)
        return 1
    return 0


def sacct(argv: list[str]) -> int:
    if "-j" not in argv:
        return 0
    with state() as now:
        job = now["jobs"].get(argv[argv.index("-j") + 1])
    if job:
        print(f"{job['state']}|0:0|{','.join(job['nodes'])}")
    return 0


def sinfo(argv: list[str]) -> int:
    assert "--format=%t %D" in argv, argv
    print(f"idle {len(NODES)}")
    return 0


def squeue(_argv: list[str]) -> int:
    with state() as now:
        alive = [name for name, job in now["jobs"].items() if job["state"] in ("PENDING", "RUNNING") or leaving(job)]
    print("\n".join(alive))
    return 0


def srun(argv: list[str]) -> int:
    """One task per node; the highest exit code counts."""
    command = argv[next(index for index, word in enumerate(argv) if not word.startswith("--")) :]
    count = int(os.environ["SLURM_JOB_NUM_NODES"])
    tasks = [subprocess.Popen(command, env=os.environ | {"SLURM_NODEID": str(index)}) for index in range(count)]
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    codes = [task.wait() for task in tasks]
    return max(code if code >= 0 else 128 - code for code in codes)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    one.__name__: one for one in (sbatch, squeue, scontrol, scancel, sacct, sinfo, srun, _run)
}


def main(command: str, argv: list[str]) -> int:
    """Run a command, unless the folder says that slurmctld is `away`; what needs no slurmctld works all the same."""
    local = command in ("srun", "_run") or argv[:2] == ["show", "hostnames"]
    if (FOLDER / "away").exists() and not local:
        print(f"{command}: error: Unable to contact slurm controller (connect failure)", file=sys.stderr)
        return 1
    return COMMANDS[command](argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
