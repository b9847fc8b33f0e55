"""`torchrelay doctor --probe`: a pod like those of the job looks around for a moment, and is deleted again."""

import contextlib
import dataclasses
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.units import Duration, NodeCount
from torchrelay_launch.backends.base import Finding, RunRef
from torchrelay_launch.backends.kubernetes import creation, events, objects, watching
from torchrelay_launch.backends.kubernetes.client import Api, Object, connect
from torchrelay_launch.backends.kubernetes.pods import CONTAINER, Place
from torchrelay_launch.spec.models import JobSpec

LIMIT_S = 180.0  # for scheduling, pulling the image and looking
LOOK_S = 1.0
# A look needs no GPU and little else, so that it is scheduled where nothing is free for the job itself.
RESOURCES = {"requests": {"cpu": "100m", "memory": "256Mi"}, "limits": {"cpu": "1", "memory": "512Mi"}}


def probe(job: JobSpec, storage_url: str) -> Iterator[Finding]:
    """Look around in a pod: name, image, DNS, storage and disk. Needs what submitting needs."""
    try:
        api = connect(job.kubernetes)
        made = rendered(job, storage_url)
        main = made[-1]
        beside = creation.secrets_of(job, main, creation.shell())
        creation.create_objects(api, main, [*made[:-1], *beside])
    except TorchrelayError as error:
        yield Finding("pod", str(error), ok=False)
        return
    try:
        yield from _watched(api, main["metadata"]["name"])
    finally:
        with contextlib.suppress(TorchrelayError):
            api.delete("Job", main["metadata"]["name"])


def rendered(job: JobSpec, storage_url: str) -> list[Object]:
    """The Service, and a Job of one pod that is like those of the job but for its command and its size."""
    options = job.kubernetes
    own: dict[str, Any] = {"kind": "job", "backoff_limit": 0, "devices": {}}
    own |= {"ttl": Duration(300), "active_deadline": Duration(LIMIT_S)}  # should this launcher not come to delete it
    own |= {} if options.kind == "job" else {"patch": []}  # which are for other objects
    small = dataclasses.replace(job.resources, nodes=NodeCount(1, 1), gpus_per_node=0, memory=None)
    like = dataclasses.replace(job, resources=small, kubernetes=dataclasses.replace(options, **own))
    run_id = f"probe-{secrets.token_hex(4)}"
    run = RunRef(run_id, f"{storage_url.rstrip('/')}/{run_id}", 1, str(Path.cwd()))
    made = objects.render(like, run)
    (container,) = [one for one in made[-1]["spec"]["template"]["spec"]["containers"] if one["name"] == CONTAINER]
    container["resources"] = RESOURCES
    container["command"] = _command(like, storage_url, objects.place_of(like, run))
    return made


def _command(job: JobSpec, storage_url: str, place: Place) -> list[str]:
    folders = ["/tmp", "/dev/shm", *([job.kubernetes.workdir] if place.code else [])]  # noqa: S108 - of the pod
    words = [job.kubernetes.python, "-m", "torchrelay_launch.backends.kubernetes.probe"]
    words += ["--storage", storage_url, "--name", place.host]
    return words + [word for folder in folders for word in ("--writable", folder)]


def _watched(api: Api, name: str) -> Iterator[Finding]:
    """What the pod found, or why there is none that could."""
    deadline, says = time.monotonic() + LIMIT_S, "it was not made"
    while time.monotonic() < deadline:
        try:
            job = api.get("Job", name)
            pods = watching.pods_of(api, job) if job else []
            ended = next(iter(_ended(pods)), None)
            if ended is not None:
                yield from _findings(*ended)
                return
            if job is None or any(map(watching.stuck, pods)):
                break
            says = _why(api, job, pods)
        except TorchrelayError as error:
            says = str(error)
        time.sleep(LOOK_S)
    with contextlib.suppress(TorchrelayError):
        job = api.get("Job", name)
        says = _why(api, job, watching.pods_of(api, job)) if job else f"Job {name} was deleted by somebody else"
    yield Finding("pod", f"none could look around: {says}", ok=False)


def _why(api: Api, job: Object, pods: list[Object]) -> str:
    troubles = [text for text in map(watching.trouble, pods) if text]
    troubles += [events.why_not_started(api, pods) if pods else events.why_no_pods(api, job)]
    if watching.condition(job, "Suspended"):
        troubles.append(f"it waits in the queue: {watching.queue_says(api, job)}")
    return "; ".join(filter(None, troubles)) or "it is being set up"


def _ended(pods: list[Object]) -> Iterator[tuple[Object, Object]]:
    """Pods with the state in which their container ended."""
    for pod in pods:
        for container in (pod.get("status") or {}).get("containerStatuses") or []:
            ended = (container.get("state") or {}).get("terminated")
            if ended:
                yield pod, ended


def _findings(pod: Object, ended: Object) -> Iterator[Finding]:
    where = f"pod {pod['metadata']['name']}"
    try:
        said = [json.loads(line) for line in str(ended.get("message") or "").splitlines()]
        found = [Finding(str(one["what"]), str(one["says"]), ok=one["ok"]) for one in said]
    except (ValueError, KeyError, TypeError):
        found = []
    if not found:
        says = f"{watching.ending(pod) or where}; it could not look around: is this torchrelay in the image?"
        yield Finding("pod", says, ok=False)
        return
    node = (pod.get("spec") or {}).get("nodeName")
    yield Finding("pod", f"{where} looked around" + (f" on node {node}" if node else ""), ok=True)
    yield from found
