"""How an attempt stands, as Kubernetes sees it: what a run's storage alone cannot tell.

Everything is asked for by plain lists, never by watches: nothing here needs an answer within a second, there is no
watch to be cut and no version to expire (410 Gone), and an API server that is away costs one answer.
"""

import datetime
import time

from torchrelay.contract.errors import ConfigError, TorchrelayError
from torchrelay.contract.exit_codes import RunState
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.kubernetes import events, generations, names
from torchrelay_launch.backends.kubernetes.client import Api, ApiAwayError, Object, connect
from torchrelay_launch.backends.kubernetes.creation import Whereabouts, read_whereabouts
from torchrelay_launch.backends.kubernetes.refusals import LoginError
from torchrelay_launch.backends.kubernetes.states import (
    DISRUPTIONS,
    ENDED,
    EXIT_CODES,
    FAILING,
    FINISHED,
    STUCK,
    WAITING,
)
from torchrelay_launch.runs.observed import Observed
from torchrelay_launch.spec.models import Kubernetes

LAST_WORDS = 300  # characters
OVERDUE_S = 10.0  # how long after its grace a pod may take to be gone
_OVER = (0, generations.STOPPED, 76, 78)
KUEUE_QUEUE = "kueue.x-k8s.io/queue-name"


def observe(storage: Storage, attempt: int) -> Observed | None:
    """What Kubernetes says of an attempt; None if it adds nothing. Raises: StorageError."""
    where = read_whereabouts(storage, generations.record_of(storage, attempt).backend_id)
    outcome = generations.outcome_of(storage, attempt)
    asked_to_stop = generations.stopped(storage, attempt)
    if where is None or (outcome is not None and generations.last_code(outcome, asked_to_stop=asked_to_stop) in _OVER):
        return None
    begun = generations.read_begin(storage, attempt) is not None and outcome is None
    try:
        api = api_of(where)
        job = api.get(where.kind, where.name)
        if job is None:
            elsewhere = of_another_cluster(api, where)
            if elsewhere:
                return Observed(None, elsewhere, unreachable=True)
            return _gone(where, asked_to_stop=asked_to_stop, ended=outcome is not None)
        pods = pods_of(api, job)
        return observed(job, pods, begun=begun, waits=_waits(api, job, pods))
    except (ApiAwayError, LoginError) as error:
        return Observed(None, str(error), unreachable=True)
    except ConfigError as error:
        return Observed(None, str(error))


def _waits(api: Api, job: Object, pods: list[Object]) -> str:
    """Why a job has no pods, or its pods do not start, where neither says so itself."""
    if condition(job, "Suspended") is not None:
        return queue_says(api, job)
    if any(condition(job, kind) for kind in (*FINISHED, FAILING)):
        return ""
    alive = [one for one in pods if is_alive(one)]
    missing = events.wanted_pods(job) - len(alive)
    said = events.why_no_pods(api, job) if missing > 0 else ""
    if said:
        return f"{missing} of {events.wanted_pods(job)} pods are missing: {said}"
    return events.why_not_started(api, alive)


def api_of(where: Whereabouts) -> Api:
    """The cluster and namespace of an attempt. Raises: ConfigError."""
    return connect(Kubernetes(context=where.context), where.namespace, where.server)


def of_another_cluster(api: Api, where: Whereabouts) -> str:
    """What to say of a job that is not found where it was not submitted to; an empty text where it was.

    One cluster can have several addresses, so an address that differs proves nothing where the job is found.
    """
    if where.server in ("", api.server):
        return ""
    return (
        f"{where.kind} {where.name} was submitted to the cluster at {where.server}, and this kubeconfig leads to "
        f"{api.server}, which does not have it: switch with `kubectl config use-context`, or set KUBECONFIG"
    )


def observed(job: Object, pods: list[Object], *, begun: bool, waits: str = "") -> Observed:
    """The state that a job and its pods stand for, for an attempt that is not over."""
    name = f"{job['kind']} {job['metadata']['name']}"
    for kind in FINISHED:
        found = condition(job, kind)
        if found is not None:
            return _finished(name, kind, found, pods)
    failing = condition(job, FAILING)
    if failing is not None:
        words = f"{name} fails as soon as its pods have ended: {_said(failing)}"
        return Observed(RunState.RUNNING if begun else RunState.PENDING, words)
    if job["metadata"].get("deletionTimestamp"):
        return Observed(RunState.RUNNING if begun else RunState.PENDING, f"{name} is being deleted, its pods first")
    if condition(job, "Suspended") is not None:
        return Observed(RunState.PENDING, f"{name} is queued{waits and ': ' + waits}")
    alive = [one for one in pods if is_alive(one)]
    troubles = grouped(alive) + ([waits] if waits else [])
    ended = [text for text in (ending(one) for one in pods if not is_alive(one)) if text]
    before = f"; before: {ended[-1]}" if ended else ""
    if troubles:
        running = begun and _all_run(alive)
        return Observed(RunState.RUNNING if running else RunState.PENDING, "; ".join(troubles) + before)
    count = f"{len(alive)} pod{'s' * (len(alive) != 1)}"
    if begun and (alive or not ended):
        return Observed(RunState.RUNNING, f"{name}, {count}")
    if _all_run(alive):
        return Observed(RunState.PENDING, f"{name}: {count} started, the attempt is about to begin{before}")
    return Observed(RunState.PENDING, f"{name} waits for its pods{before}")


def pods_of(api: Api, job: Object) -> list[Object]:
    """All pods of an attempt's job, the oldest first. Raises: ConfigError, ApiAwayError."""
    labels = job["metadata"]["labels"]
    wanted = f"{names.RUN_LABEL}={labels[names.RUN_LABEL]},{names.ATTEMPT_LABEL}={labels[names.ATTEMPT_LABEL]}"
    pods = api.list("Pod", labels=wanted)
    return sorted(pods, key=lambda one: (one["metadata"].get("creationTimestamp", ""), one["metadata"]["name"]))


def condition(made: Object, kind: str) -> Object | None:
    """A condition of this type that is true."""
    for one in (made.get("status") or {}).get("conditions") or []:
        if one.get("type") == kind and one.get("status") == "True":
            return dict(one)
    return None


def trouble(pod: Object) -> str:
    """Why a pod does not run, or an empty text if it does."""
    return "".join(grouped([pod]))


def grouped(pods: list[Object]) -> list[str]:
    """The troubles of several pods: each once, however many pods have it."""
    found: dict[tuple[str, str], list[str]] = {}
    for pod in pods:
        found.setdefault(_trouble(pod), []).append(pod["metadata"]["name"])
    return [_of_pods(those, what) + (why and f": {why}") for (what, why), those in found.items() if what]


def _of_pods(those: list[str], what: str) -> str:
    if len(those) == 1:
        return f"pod {those[0]}{' ' if what.startswith('is ') else ': '}{what}"
    many = f"{len(those)} pods, such as {those[0]}"
    return f"{many}, are {what[3:]}" if what.startswith("is ") else f"{many}: {what}"


def _trouble(pod: Object) -> tuple[str, str]:
    """What keeps a pod from running, and what the cluster says of it; empty texts if it runs."""
    status = pod.get("status") or {}
    if pod["metadata"].get("deletionTimestamp"):
        return "is being deleted", _why_deleted(pod)
    for one in status.get("conditions") or []:
        if one.get("type") == "PodScheduled" and one.get("status") == "False":
            return "is not scheduled", str(one.get("message") or one.get("reason"))
    for container in _containers(status):
        waiting = (container.get("state") or {}).get("waiting")
        if waiting:
            reason = waiting.get("reason", "")
            return WAITING.get(reason, reason or "waits"), str(waiting.get("message") or "")
    if status.get("phase") == "Running" and _node_is_silent(pod):
        return "is on a node that does not answer", str((pod.get("spec") or {}).get("nodeName") or "")
    if status.get("phase") != "Pending":
        return "", ""
    return "is being set up" if (pod.get("spec") or {}).get("nodeName") else "is to be scheduled", ""


def _node_is_silent(pod: Object) -> bool:
    """Whether the node controller took a pod's readiness away, which leaves that of its containers as it was."""
    return condition(pod, "ContainersReady") is not None and condition(pod, "Ready") is None


def _why_deleted(pod: Object) -> str:
    """Why a pod has to go, and that its node does not say that it has gone."""
    disrupted = condition(pod, "DisruptionTarget") or {}
    why = DISRUPTIONS.get(disrupted.get("reason", ""), "")
    overdue = time.time() - seconds(pod["metadata"]["deletionTimestamp"]) > OVERDUE_S  # which is the end of its grace
    node = (pod.get("spec") or {}).get("nodeName")
    silent = f"node {node} does not say that it has ended" if overdue and node else ""
    return ", ".join(filter(None, (why, silent)))


def seconds(moment: str) -> float:
    """A time of the API's as seconds since 1970."""
    return datetime.datetime.fromisoformat(moment).timestamp()


def stuck(pod: Object) -> bool:
    """Whether a pod waits for what will not come by itself."""
    containers = _containers(pod.get("status") or {})
    return any(((one.get("state") or {}).get("waiting") or {}).get("reason") in STUCK for one in containers)


def _containers(status: Object) -> list[Object]:
    """Statuses of a pod's containers, and before them of those that a site puts in to start first."""
    return [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]


def ending(pod: Object) -> str:
    """How a pod ended, with its last words; an empty text if it has not."""
    name, status = pod["metadata"]["name"], pod.get("status") or {}
    disrupted = condition(pod, "DisruptionTarget")
    if status.get("phase") not in ("Failed", "Succeeded"):
        return f"pod {name} is being moved: {DISRUPTIONS.get(disrupted.get('reason', ''), '')}" if disrupted else ""
    if status.get("phase") == "Failed" and status.get("reason") in ENDED:  # the node's own reason says more than 137
        return f"pod {name}: {ENDED[status['reason']]}{_message(status)}"
    for container in status.get("containerStatuses") or []:
        ended = (container.get("state") or {}).get("terminated")
        if ended and ended.get("reason") != "Completed":
            return f"{ending_of(pod, ended)}{_words(ended)}"
    if disrupted:
        return f"pod {name}: {DISRUPTIONS.get(disrupted.get('reason', ''), 'disrupted')}"
    if status.get("phase") == "Failed":
        reason = str(status.get("reason", ""))
        return f"pod {name}: {reason or 'failed'}{_message(status)}"
    return ""


def ending_of(pod: Object, ended: Object) -> str:
    """How a container of a pod ended. `ended`: its state `terminated`."""
    return f"pod {pod['metadata']['name']}: {_how(ended, condition(pod, 'DisruptionTarget'))}"


def _how(ended: Object, disrupted: Object | None) -> str:
    if ended.get("reason") == "OOMKilled":
        return ENDED["OOMKilled"]
    if disrupted:
        return DISRUPTIONS.get(disrupted.get("reason", ""), "disrupted")
    code = ended.get("exitCode")
    meaning = EXIT_CODES.get(code) if isinstance(code, int) else None
    return f"exit code {code}" + (f", {meaning}" if meaning else "")


def _words(ended: Object) -> str:
    text = str(ended.get("message") or "").strip()
    return f": {text[-LAST_WORDS:]}" if text else ""


def _message(status: Object) -> str:
    return f" ({status['message']})" if status.get("message") else ""


def is_alive(pod: Object) -> bool:
    """Whether a pod has not ended."""
    return (pod.get("status") or {}).get("phase") in ("Pending", "Running")


def _all_run(pods: list[Object]) -> bool:
    return bool(pods) and all(one["status"].get("phase") == "Running" for one in pods)


def _finished(name: str, kind: str, found: Object, pods: list[Object]) -> Observed:
    if FINISHED[kind] is RunState.COMPLETED:
        return Observed(RunState.COMPLETED, f"{name} completed")
    ended = [text for text in map(ending, pods) if text]
    last = f"; {ended[-1]}" if ended else ""
    return Observed(RunState.FAILED, f"{name} failed", f"{name} failed: {_said(found)}{last}")


def _said(found: Object) -> str:
    return str(found.get("message") or found.get("reason") or "no reason given")


def _gone(where: Whereabouts, *, asked_to_stop: bool, ended: bool) -> Observed | None:
    name = f"{where.kind} {where.name} in namespace {where.namespace}"
    if asked_to_stop:
        return Observed(RunState.STOPPED, f"{name} was deleted")
    if ended:
        return Observed(RunState.FAILED, error=f"{name} is gone, so the run does not go on by itself")
    return Observed(RunState.FAILED, error=f"{name} is gone: somebody deleted it before the attempt ended")


def queue_says(api: Api, job: Object) -> str:
    """Kueue's own words for why a job waits, where they can be had."""
    queue = job["metadata"].get("labels", {}).get(KUEUE_QUEUE)
    if queue is None:
        return ""
    try:
        workloads = api.list("Workload")
    except TorchrelayError:
        return f"in queue {queue}"
    for one in workloads:
        owners = one["metadata"].get("ownerReferences") or []
        if any(owner.get("uid") == job["metadata"].get("uid") for owner in owners):
            for found in (one.get("status") or {}).get("conditions") or []:
                if found.get("type") == "QuotaReserved" and found.get("status") == "False":
                    return f"in queue {queue}, {found.get('message') or found.get('reason')}"
    return f"in queue {queue}"
