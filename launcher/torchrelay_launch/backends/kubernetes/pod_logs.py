"""What pods printed, for those whose supervisors could not write it down: the last words of containers that crashed.

The nodes' logs in the run's storage are all that ranks and supervisors print. A container that dies before its
supervisor has started, or is killed with lines that were not flushed, leaves these in the pod's own log, as long as the
pod is there.
"""

from torchrelay.contract import records
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.log_lines import LogLine
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.base import LastWords
from torchrelay_launch.backends.kubernetes import generations, watching
from torchrelay_launch.backends.kubernetes.client import Api, NotThereError, Object
from torchrelay_launch.backends.kubernetes.creation import read_whereabouts
from torchrelay_launch.tailing import node_logs, whole_lines

LINES = 200
CLEAN = (0, 75, 130)  # exit codes of pods whose supervisors have said everything
INDEX = "batch.kubernetes.io/job-completion-index"


def last_words(storage: Storage, attempt: int, known: set[str]) -> list[LastWords]:
    """Of the containers of an attempt that crashed, but for those in `known`. Raises: TorchrelayError."""
    where = read_whereabouts(storage, generations.record_of(storage, attempt).backend_id)
    if where is None:
        return []
    api = watching.api_of(where)
    job = api.get(where.kind, where.name)
    found = []
    for pod in watching.pods_of(api, job) if job else []:
        for container, ended, previous in _crashes(pod):
            key = f"{pod['metadata'].get('uid') or pod['metadata']['name']}:{ended.get('finishedAt', '')}"
            if key not in known and _attempt_at(storage, ended.get("finishedAt"), where.name) == attempt:
                texts = _texts(api, pod, container, previous=previous)
                found.append(LastWords(key, _lines(storage, attempt, pod, ended, texts)))
    return found


def _crashes(pod: Object) -> list[tuple[str, Object, bool]]:
    """Containers of a pod that ended otherwise than they should: name, how, and whether another was started since."""
    found = []
    for one in (pod.get("status") or {}).get("containerStatuses") or []:
        for state, previous in ((one.get("lastState"), True), (one.get("state"), False)):
            ended = (state or {}).get("terminated")
            if ended and ended.get("exitCode") not in CLEAN:
                found.append((str(one.get("name", "")), ended, previous))
    return found


def _attempt_at(storage: Storage, finished: str | None, job: str) -> int:
    """The attempt of this job that was under way when a container ended."""
    all_of_run = [generations.record_of(storage, number) for number in records.attempt_numbers(storage)]
    ours = [one for one in all_of_run if one.backend_id == job]
    begun = [one.number for one in ours if finished is None or one.created_at <= watching.seconds(finished)]
    return begun[-1] if begun else ours[0].number


def _texts(api: Api, pod: Object, container: str, *, previous: bool) -> list[str]:
    """The end of a container's log, or why it cannot be had, as when the node that has it is lost."""
    try:
        return api.log(pod["metadata"]["name"], container, LINES, previous=previous).splitlines()
    except NotThereError:
        return []
    except TorchrelayError as error:
        return [f"its log cannot be read: {error}"]


def _lines(storage: Storage, attempt: int, pod: Object, ended: Object, texts: list[str]) -> list[str]:
    """As the node's log would have them, without what is there already."""
    node = _index(pod)
    written = {
        line.text for path in node_logs(storage, attempt) for line in whole_lines(storage, path, unfinished=True)
    }
    message = str(ended.get("message") or "").splitlines()
    message = [one for one in message if not any(text.endswith(one) for text in texts)]
    new = [one for one in texts + message if one.strip() and one not in written]
    return [str(LogLine(node, None, watching.ending_of(pod, ended)))] + [
        one if one.startswith("[node ") else str(LogLine(node, None, f"pod: {one}")) for one in new
    ]


def _index(pod: Object) -> int:
    """The node that a pod is, by what the Job controller writes on it."""
    metadata = pod["metadata"]
    value = (metadata.get("labels") or {}).get(INDEX) or (metadata.get("annotations") or {}).get(INDEX) or "0"
    return int(value) if value.isdigit() else 0
