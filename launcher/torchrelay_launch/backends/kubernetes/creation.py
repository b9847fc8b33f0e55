"""Creating the objects of an attempt, and remembering where they are."""

import base64
import dataclasses
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass

from torchrelay.contract.errors import ConfigError, StorageError, TorchrelayError
from torchrelay.contract.records import dump
from torchrelay.contract.storage import Storage
from torchrelay_launch.backends.kubernetes.client import Api, ApiAwayError, Object
from torchrelay_launch.backends.kubernetes.refusals import NotDoneError
from torchrelay_launch.backends.kubernetes.submission import ObjectSubmission
from torchrelay_launch.spec.models import JobSpec

UNDO_S, UNDO_EVERY_S = 8.0, 2.0  # for an API server that is away
MAIN = ("Job", "JobSet", "TrainJob")


@dataclass(frozen=True)
class Whereabouts:
    """kubernetes/NAME.json: where an attempt's objects are, for launchers on other machines."""

    name: str
    kind: str
    namespace: str
    context: str | None = None  # of the kubeconfig, if the spec names one
    server: str = ""  # URL of the API, as whoever submitted knew it


def whereabouts_file(name: str) -> str:
    return f"kubernetes/{name}.json"


def read_whereabouts(storage: Storage, name: str) -> Whereabouts | None:
    """Raises: StorageError."""
    path = whereabouts_file(name)
    try:
        values = json.loads(storage.read(path))
        known = {one.name for one in dataclasses.fields(Whereabouts)}
        return Whereabouts(**{key: value for key, value in values.items() if key in known})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise StorageError(f"{storage.url}/{path} is damaged: {error}") from error


def create(api: Api, storage: Storage, submission: ObjectSubmission) -> Whereabouts:
    """Create the objects: first the job, then what it owns, so that all go with it. Raises: TorchrelayError."""
    main = next(one for one in submission.objects if one["kind"] in MAIN)
    others = [one for one in submission.objects if one["kind"] not in MAIN]
    others += secrets_of(submission.job, main, shell())
    context = submission.job.kubernetes.context
    where = Whereabouts(main["metadata"]["name"], main["kind"], api.namespace, context, api.server)
    storage.replace(whereabouts_file(where.name), dump(where))
    create_objects(api, main, others)
    return where


def create_objects(api: Api, main: Object, others: list[Object]) -> None:
    """Create an object, then what it owns, or nothing at all. Raises: TorchrelayError."""
    try:
        created = api.create(_placed(main, api.namespace))
    except NotDoneError:
        raise
    except ApiAwayError as error:  # the answer may be all that is lost
        raise _undone(api, main, error) from None
    try:
        for one in others:
            api.create(_owned(_placed(one, api.namespace), created))
    except TorchrelayError as error:
        raise _undone(api, main, error) from None


def _undone(api: Api, main: Object, error: TorchrelayError) -> TorchrelayError:
    """Delete what may have been created. Returns the error, with what may be left."""
    kind, name = main["kind"], main["metadata"]["name"]
    until = time.monotonic() + UNDO_S
    while True:
        try:
            api.delete(kind, name)
        except ApiAwayError:
            if time.monotonic() < until:
                time.sleep(UNDO_EVERY_S)
                continue
        except TorchrelayError:
            pass
        else:
            return error
        left = f"{kind} {name} may be left in namespace {api.namespace}; its pods see that it was given up, and end"
        return type(error)(f"{error}; {left}")


def rehearse(api: Api, submission: ObjectSubmission) -> list[str]:
    """Ask the server whether it would take the objects. Returns what it would. Raises: ConfigError, ApiAwayError."""
    made = [*submission.objects]
    for one in made:
        api.create(_placed(one, api.namespace), dry_run=True)
    return [f"{one['kind']} {one['metadata']['name']} in namespace {api.namespace}" for one in made]


def shell() -> Mapping[str, str]:
    """The variables of whoever submits."""
    return os.environ


def secrets_of(job: JobSpec, main: Object, environment: Mapping[str, str]) -> list[Object]:
    """The Secret with the values of `secrets:`, if one is to be made. Raises: ConfigError for one that is not set."""
    if not job.secrets or job.kubernetes.secret is not None or not job.kubernetes.create_secret:
        return []
    missing = [name for name in job.secrets if name not in environment]
    if missing:
        raise ConfigError(f"secrets: not set in this shell: {', '.join(missing)}; try `export {missing[0]}=...`")
    values = {name: base64.b64encode(environment[name].encode()).decode() for name in job.secrets}
    metadata = {"name": f"{main['metadata']['name']}-secrets", "labels": dict(main["metadata"]["labels"])}
    return [{"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": values}]


def _placed(made: Object, namespace: str) -> Object:
    return made | {"metadata": made["metadata"] | {"namespace": namespace}}


def _owned(made: Object, owner: Object) -> Object:
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
    }
    return made | {"metadata": made["metadata"] | {"ownerReferences": [reference]}}
