"""What to type to name a run."""

import shlex

from torchrelay_launch.runs import storage_url


def name_for_user(url: str) -> str:
    """The id of a run if it lies where `torchrelay` looks by itself, else its whole URL, fit for a shell."""
    root, _, run_id = url.rpartition("/")
    return shlex.quote(run_id if storage_url(None) == root else url)
