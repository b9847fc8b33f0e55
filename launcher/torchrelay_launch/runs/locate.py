"""From what a user types to the storage of a run."""

import os
import re
import shlex
from pathlib import Path

from torchrelay.contract import environment, layout, storage_options
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.storage import Storage, open_storage
from torchrelay_launch.spec.models import JobSpec

DEFAULT_STORAGE = "runs"
_STAMP = re.compile(r"-\d{8}-\d{6}-.*")


def storage_url(option: str | None, spec_storage: str | None = None) -> str:
    """Where runs are kept: the option, TORCHRELAY_STORAGE, the spec's `storage:`, else ./runs; local paths absolute.

    Raises: ConfigError for a URL with a secret in it.
    """
    url = option or os.environ.get(environment.STORAGE) or spec_storage or DEFAULT_STORAGE
    if "://" in url and storage_options.secrets_in({"storage": url}):
        source = "--storage" if option else environment.STORAGE if os.environ.get(environment.STORAGE) else "storage"
        raise ConfigError(
            f"{source}: the URL has a secret in it, and would be shown; take it out, and set it as a variable"
        )
    return url if "://" in url else str(Path(url).expanduser().absolute())


def open_for(job: JobSpec, url: str) -> Storage:
    """The storage of a URL, reached as the job's `storage_options:` say; without any, as the environment says.

    Raises: ConfigError for a missing driver, or secrets among the options.
    """
    return open_storage(url, job.storage_options or None)


def find_run(text: str, storage_option: str | None = None) -> Storage:
    """The run that a URL, a path, a run id or the unique start of one names.

    Raises: ConfigError, with the candidates or the nearest names, if there is no such run or more than one.
    """
    if not text:
        raise ConfigError("no run named: give a run id, its start, or the path or URL of a run")
    direct = open_storage(storage_url(text))
    if _holds_run(direct):
        return direct
    _refuse_sweep(direct)
    if "/" in text:
        raise ConfigError(
            f"there is no run at {direct.url}: it has no {layout.RUN_RECORD}; `torchrelay ls STORAGE` lists runs"
        )
    return _find_by_id(text, open_storage(storage_url(storage_option)))


def _holds_run(storage: Storage) -> bool:
    return storage.size(layout.RUN_RECORD) is not None


def _refuse_sweep(storage: Storage) -> None:
    """Raises: ConfigError if this is no run, but a sweep."""
    if storage.size(layout.SWEEP_RECORD) is not None:
        root, _, sweep_id = storage.url.rpartition("/")
        name = shlex.quote(sweep_id if root == storage_url(None) else storage.url)
        raise ConfigError(
            f"{sweep_id} is a sweep, and this is about one run: name one such as {layout.point_run_id(sweep_id, 1)}; "
            f"`torchrelay ls --sweep {name}` lists them"
        )


def _find_by_id(text: str, root: Storage) -> Storage:
    names = root.list("")
    if text in names and _holds_run(root.folder(text)):
        return root.folder(text)
    if text in names:
        _refuse_sweep(root.folder(text))
    starting = [name for name in names if name.startswith(text) and _holds_run(root.folder(name))]
    if len(starting) == 1:
        return root.folder(starting[0])
    if starting:
        raise ConfigError(f"more than one run in {root.url} starts with {text!r}: {_listed(starting)}")
    ids = [name for name in names if _holds_run(root.folder(name))]
    raise ConfigError(_not_found(text, ids, root.url))


def _not_found(text: str, ids: list[str], url: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(text, ids, n=3, cutoff=0.5)
    if near:
        return f"there is no run {text!r} in {url}; did you mean {_listed(near)}?"
    there = f"the newest there: {_listed(_newest_last(ids)[-3:])}" if ids else "it holds no run at all"
    return f"there is no run {text!r} in {url} ({there}); name another storage with --storage"


def _newest_last(ids: list[str]) -> list[str]:
    """By the time in the ids, which end in -yyyymmdd-hhmmss-xxxx, or in that and the number of a sweep's point."""
    return sorted(ids, key=lambda name: _STAMP.findall(name)[-1:])


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
