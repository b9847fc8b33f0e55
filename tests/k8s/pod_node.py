"""A node and a Job controller in little: pods as local processes, each with a network, host name and pids of its own.

What is real: the command line, the environment, signals and grace, exit codes, names that resolve to addresses that
change, and the rules of podFailurePolicy, which are read from the Job. What is not: images, cgroups, the scheduler. The
controller does as Kubernetes' own was seen to do with these Jobs; k8s/README.md says how.
"""

import contextlib
import datetime
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from api_server import Cluster

SUBNET = "10.213.7"
BACK_OFF_S, LONGEST_BACK_OFF_S = 0.5, 30.0  # 10 s and 10 min in a cluster
ENTER = 'hostname "$1"; shift; exec "$@"'
_addresses = itertools.count(10)


@dataclass
class PodProcess:
    """One pod."""

    name: str
    index: int
    address: str
    network: str
    cable: str  # its end at the hub
    process: "subprocess.Popen[bytes]"
    disrupted: str = ""  # reason of DisruptionTarget
    kill_at: float | None = None

    @property
    def main_pid(self) -> int | None:
        """The container's process 1, which stands below those that made its namespaces."""
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid = self.process.pid
            return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])
        return None


@dataclass
class JobRunner:
    """Runs one Job from the cluster until it is complete, failed or deleted."""

    cluster: Cluster
    name: str
    folder: Path  # for logs
    cwd: Path
    pods: dict[int, PodProcess] = field(default_factory=dict)
    ended: list[tuple[str, int]] = field(default_factory=list)  # (pod, exit code)
    failures: dict[int, int] = field(default_factory=dict)  # by index, those that counted
    unschedulable: set[int] = field(default_factory=set)  # pods that no node has room for
    _again_at: dict[int, float] = field(default_factory=dict)
    _ended_badly: list[int] = field(default_factory=list)  # indexes, whether it counted or not
    _done: set[int] = field(default_factory=set)
    _networks: list[str] = field(default_factory=list)
    _thread: threading.Thread | None = None
    _decided: bool = False
    _closing: bool = False
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def start(self) -> None:
        self.hub = f"trhub{os.getpid()}x{next(_addresses)}"
        _ip("netns", "add", self.hub)
        _ip("-n", self.hub, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.hub, "link", "set", "br0", "up")
        self._thread = threading.Thread(target=self._control, daemon=True)
        self._thread.start()

    def evict(self, index: int, reason: str = "EvictionByEvictionAPI") -> PodProcess:
        """What the eviction API does: SIGTERM, and SIGKILL after the grace."""
        with self._lock:
            pod = self.pods[index]
            pod.disrupted = reason
            self._terminate(pod)
        return pod

    def lose(self, index: int) -> PodProcess:
        """What a node does that loses its power."""
        with self._lock:
            self.pods[index].disrupted = "DeletionByPodGC"
            return self.kill(index)

    def plug(self, index: int, how: str) -> None:
        """Take a pod's network away (`down`), without a word to either side, or give it back (`up`)."""
        _ip("-n", self.hub, "link", "set", self.pods[index].cable, how)

    def kill(self, index: int) -> PodProcess:
        """What the kernel does to a container that takes too much memory."""
        with self._lock:
            pod = self.pods[index]
            pod.process.kill()
        return pod

    def close(self) -> None:
        self._closing = True
        if self._thread is not None:
            self._thread.join(30)
        for pod in self.pods.values():
            pod.process.kill()
            pod.process.wait()
        for network in [*self._networks, self.hub]:
            subprocess.run(["ip", "netns", "del", network], check=False, capture_output=True)
            with contextlib.suppress(OSError):
                Path(f"/etc/netns/{network}/hosts").unlink()
                Path(f"/etc/netns/{network}").rmdir()

    def job(self) -> dict[str, Any] | None:
        with self.cluster.lock:
            return self.cluster.get("jobs", self.name)

    def _control(self) -> None:
        while not self._closing:
            with self._lock:
                job = self.job()
                if job is None or job.get("status", {}).get("conditions"):
                    self._end(job)
                else:
                    self._collect(job)
                    if not self._decided:
                        self._fill(job)
            time.sleep(0.05)

    def _end(self, job: dict[str, Any] | None) -> None:
        """End all pods; only then is what was decided of the job its condition."""
        for pod in self.pods.values():
            self._terminate(pod)
        self._collect(None)
        if job is not None and not self.pods and len(job["status"]["conditions"]) == 1:
            (decided,) = job["status"]["conditions"]
            kind = {"FailureTarget": "Failed", "SuccessCriteriaMet": "Complete"}[decided["type"]]
            with self.cluster.lock:
                self.cluster.put("jobs", job | {"status": {"conditions": [decided, decided | {"type": kind}]}})

    def _fill(self, job: dict[str, Any]) -> None:
        spec = job["spec"]
        wanted = min(spec["completions"], spec["parallelism"])
        enough = [set(range(spec["completions"]))]
        enough += [{int(rule["succeededIndexes"])} for rule in spec.get("successPolicy", {}).get("rules", [])]
        if any(self._done >= indexes for indexes in enough):
            self._decide(job, "SuccessCriteriaMet", "Matched rules at index 0")
            return
        for index in range(wanted):
            if index in self.unschedulable or len(self.pods) >= wanted:  # with those that are being ended
                continue
            if index not in self.pods and index not in self._done and self._again_at.get(index, 0) < time.monotonic():
                self.pods[index] = self._start(job, index)
                self._write_hosts()
        for index in [index for index in self.pods if index >= wanted]:
            self._terminate(self.pods[index])
            self.failures.pop(index, None)  # counts and delays go with the pod that has them
            self._again_at.pop(index, None)
            self._ended_badly = [one for one in self._ended_badly if one != index]

    def _collect(self, job: dict[str, Any] | None) -> None:
        for index, pod in list(self.pods.items()):
            code = pod.process.poll()
            if code is None:
                if pod.kill_at is not None and time.monotonic() > pod.kill_at:
                    pod.process.kill()
                continue
            code = code if code >= 0 else 128 - code
            del self.pods[index]
            self._report(pod, code)
            self.ended.append((pod.name, code))
            if job is not None:
                self._judge(job, pod, code)
                self._back_off(job, index, code)

    def _back_off(self, job: dict[str, Any], index: int, code: int) -> None:
        """Twice as long each time: after each failure of any pod, or only of this one with backoffLimitPerIndex."""
        if code == 0:
            return
        self._ended_badly.append(index)
        per_index = "backoffLimitPerIndex" in job["spec"]
        number = self._ended_badly.count(index) if per_index else len(self._ended_badly)
        delay_s = min(LONGEST_BACK_OFF_S, BACK_OFF_S * 2 ** (number - 1))
        for one in [index] if per_index else range(job["spec"]["completions"]):
            self._again_at[one] = time.monotonic() + delay_s

    def _report(self, pod: PodProcess, code: int) -> None:
        """What a kubelet says of a pod that has ended."""
        message = self.folder / f"{pod.name}.message"
        ended = {"exitCode": code, "reason": "Error" if code else "Completed", "finishedAt": _now()}
        ended |= {"message": message.read_text()} if message.exists() else {}
        status = {"phase": "Failed" if code else "Succeeded"}
        status |= {"containerStatuses": [{"name": "train", "state": {"terminated": ended}}]}
        if pod.disrupted:
            status |= {"conditions": [{"type": "DisruptionTarget", "status": "True", "reason": pod.disrupted}]}
        with self.cluster.lock:
            known = self.cluster.get("pods", pod.name)
            self.cluster.logs[pod.name] = (self.folder / f"{pod.name}.log").read_text(errors="replace")
            if known is not None:
                self.cluster.put("pods", known | {"status": status})

    def _judge(self, job: dict[str, Any], pod: PodProcess, code: int) -> None:
        """As the Job controller does: the first rule that fits, or else the failure counts."""
        if code == 0:
            if pod.index < job["spec"]["completions"]:
                self._done.add(pod.index)
            return
        for rule in job["spec"]["podFailurePolicy"]["rules"]:
            by_code = code in rule.get("onExitCodes", {}).get("values", [])
            by_condition = bool(pod.disrupted) and "onPodConditions" in rule
            if by_code or by_condition:
                if rule["action"] == "FailJob":
                    self._decide(
                        job, "FailureTarget", f"pod {pod.name} failed with exit code {code} matching FailJob rule"
                    )
                return
        if pod.index >= job["spec"]["completions"]:
            return
        self.failures[pod.index] = self.failures.get(pod.index, 0) + 1
        spec = job["spec"]
        if sum(self.failures.values()) > spec.get("backoffLimit", 2**31 - 1):
            self._decide(job, "FailureTarget", "Job has reached the specified backoff limit")
        failed = sum(count > spec["backoffLimitPerIndex"] for count in self.failures.values())
        if failed > spec["maxFailedIndexes"]:
            self._decide(job, "FailureTarget", "Job has exceeded the specified maximal number of failed indexes")

    def _decide(self, job: dict[str, Any], kind: str, message: str) -> None:
        """What is decided first holds, and a failure comes before a success that is seen at the same time."""
        if self._decided:
            return
        self._decided = True
        with self.cluster.lock:
            condition = {"type": kind, "status": "True", "message": message}
            self.cluster.put("jobs", job | {"status": {"conditions": [condition]}})

    def _start(self, job: dict[str, Any], index: int) -> PodProcess:
        number = next(_addresses)
        address, network = f"{SUBNET}.{number}", f"trpod{os.getpid()}x{number}"
        name = f"{self.name}-{index}-{number:05d}"
        self._networks.append(network)
        cable = self._connect(network, address, number)
        self._write_hosts_of(network, {f"{self.name}-{index}": address})
        (container,) = job["spec"]["template"]["spec"]["containers"]
        argv = ["ip", "netns", "exec", network, "unshare", "--pid", "--uts", "--fork", "--kill-child=SIGKILL"]
        argv += ["--mount-proc", "sh", "-c", ENTER, "sh", f"{self.name}-{index}", *container["command"]]
        with (self.folder / f"{name}.log").open("wb") as log:
            environment = self._environment(container, {"metadata.name": name, "status.podIP": address}, index)
            process = subprocess.Popen(argv, cwd=self.cwd, env=environment, stdout=log, stderr=subprocess.STDOUT)
        pod = PodProcess(name, index, address, network, cable, process)
        labels = job["spec"]["template"]["metadata"]["labels"]
        labels = labels | {"batch.kubernetes.io/job-completion-index": str(index)}
        with self.cluster.lock:
            self.cluster.put("pods", {"metadata": {"name": name, "labels": labels}, "status": {"phase": "Running"}})
        return pod

    def _environment(self, container: dict[str, Any], fields: dict[str, str], index: int) -> dict[str, str]:
        environment = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
        environment |= {"JOB_COMPLETION_INDEX": str(index), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        environment["TORCHRELAY_TERMINATION_LOG"] = str(self.folder / f"{fields['metadata.name']}.message")
        for one in container["env"]:
            if "value" in one:
                environment[one["name"]] = one["value"].replace("$$(", "$(")
            elif "fieldRef" in one["valueFrom"]:
                environment[one["name"]] = fields.get(one["valueFrom"]["fieldRef"]["fieldPath"], "node")
        return environment

    def _connect(self, network: str, address: str, number: int) -> str:
        """A network of its own, with one cable to the hub. Returns the cable."""
        cable = f"v{number}"
        _ip("netns", "add", network)
        _ip("-n", self.hub, "link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", network)
        _ip("-n", self.hub, "link", "set", cable, "master", "br0", "up")
        _ip("-n", network, "addr", "add", f"{address}/24", "dev", "eth0")
        for device in ("lo", "eth0"):
            _ip("-n", network, "link", "set", device, "up")
        return cable

    def _write_hosts(self) -> None:
        """The headless Service: names of all pods that are there, whether ready or not."""
        for pod in self.pods.values():
            names = {f"{self.name}-{one.index}.{self.name}": one.address for one in self.pods.values()}
            names[f"{self.name}-{pod.index}"] = pod.address
            self._write_hosts_of(pod.network, names)

    def _write_hosts_of(self, network: str, names: dict[str, str]) -> None:
        path = Path(f"/etc/netns/{network}/hosts")
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = ["127.0.0.1 localhost", *(f"{address} {name}" for name, address in names.items())]
        path.write_text("\n".join(lines) + "\n")  # the same file, which running pods have mounted

    def _terminate(self, pod: PodProcess) -> None:
        if pod.kill_at is not None:
            return
        job = self.job()
        grace = job["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] if job else 30
        pod.kill_at = time.monotonic() + grace
        pid = pod.main_pid
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)


def missing() -> str:
    """Why this machine does not let the tests make networks; an empty text if it does."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "pods in networks of their own need root on Linux: run the tests as root, as in a container"
    try:
        done = subprocess.run(["unshare", "--net", "ip", "link"], capture_output=True, check=False, text=True)
    except OSError as error:
        return f"{error}: tests/install.sh installs it"
    return done.stderr.strip() or "unshare --net failed" if done.returncode else ""


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
