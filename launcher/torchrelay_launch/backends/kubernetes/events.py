"""What the cluster's events say: why pods are not made, and why one that is made does not start.

Quotas, admission and the rules for pods' security speak up when pods are made, long after their Job was taken. What
they say is in the events of the Job; that a volume cannot be mounted is in the events of the pod. Events go after an
hour.
"""

from torchrelay.contract.errors import TorchrelayError
from torchrelay_launch.backends.kubernetes.client import Api, Object

WORDS = 400  # characters
SECONDS = len("2026-11-21T10:15:00")  # beyond these, times of events differ in form
REPLICATED_JOB = "-node-0"  # what a JobSet calls its one Job, after its own name
SETTING_UP = ("ContainerCreating", "PodInitializing")
SCHEDULING = ("FailedScheduling",)  # of a pod that is being set up, these are over
PULLING, PULLED = "Pulling", "Pulled"  # the kubelet's words
MADE = "SuccessfulCreate"  # the Job controller's word for a pod that it made


def wanted_pods(job: Object) -> int:
    """How many pods a Job, JobSet or TrainJob is to have."""
    spec = job["spec"]
    if job["kind"] == "TrainJob":
        return int((spec.get("trainer") or {}).get("numNodes") or 1)
    if job["kind"] == "JobSet":
        spec = spec["replicatedJobs"][0]["template"]["spec"]
    return int(spec.get("parallelism") or 1)


def why_no_pods(api: Api, job: Object) -> str:
    """Why a job has fewer pods than it is to have, in the cluster's words; an empty text if nobody says."""
    name = job["metadata"]["name"]
    made_by = [name] if job["kind"] == "Job" else [f"{name}{REPLICATED_JOB}", name]
    for one in made_by:
        said = newest_warning(api, one)
        if said:
            return _explained(said, api.namespace)
    return ""


def why_not_started(api: Api, pods: list[Object]) -> str:
    """Why the first pod that is still being set up is, or what it waits for; an empty text if nobody says."""
    for pod in pods:
        containers = (pod.get("status") or {}).get("containerStatuses") or []
        reasons = {((one.get("state") or {}).get("waiting") or {}).get("reason") for one in containers}
        if reasons & set(SETTING_UP):
            found = _events(api, pod["metadata"]["name"])
            said = _newest_warning(found) or _pulling(found)
            if said:
                return f"pod {pod['metadata']['name']}: {said}"
    return ""


def newest_warning(api: Api, name: str) -> str:
    """The message of the newest warning about an object; an empty text if there is none or it may not be asked for.

    Warnings that are over are left out: of pods that were not made, when one was made since, and of scheduling.
    """
    return _newest_warning(_events(api, name))


def _events(api: Api, name: str) -> list[Object]:
    """What the cluster has said of an object, as far as it may be asked for."""
    try:
        return api.list("Event", fields=f"involvedObject.name={name}")
    except TorchrelayError:
        return []


def _pulling(found: list[Object]) -> str:
    """That the kubelet pulls an image, for which a waiting container has no reason of its own."""
    newest = max((one for one in found if one.get("reason") in (PULLING, PULLED)), key=_when, default={})
    return f"pulling the image: {newest.get('message', '')}" if newest.get("reason") == PULLING else ""


def _newest_warning(found: list[Object]) -> str:
    made = max((_when(one)[:SECONDS] for one in found if one.get("reason") == MADE), default="")
    warnings = [one for one in found if one.get("type") == "Warning" and one.get("reason") not in SCHEDULING]
    newest = max((one for one in warnings if _when(one)[:SECONDS] >= made), key=_when, default=None)
    return "" if newest is None else " ".join(str(newest.get("message") or newest.get("reason") or "").split())[:WORDS]


def _when(event: Object) -> str:
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), event.get("lastTimestamp"), event.get("eventTime"))
    return str(next((one for one in times if one), event["metadata"].get("creationTimestamp") or ""))


def _explained(said: str, namespace: str) -> str:
    if "exceeded quota" in said or "failed quota" in said:
        return f"the quota of namespace {namespace} does not allow its pods: {said}"
    if "violates PodSecurity" in said:
        return f"the rules for pods in namespace {namespace} refuse its pods (kubernetes.patch can change them): {said}"
    if "denied the request" in said or "admission webhook" in said:
        return f"the cluster's admission refuses its pods: {said}"
    return said
