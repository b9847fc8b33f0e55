"""What to type: names of runs, and of programs."""

import shlex
import shutil
import sys
from pathlib import Path

from torchrelay_launch.runs.locate import storage_url


def name_for_user(url: str) -> str:
    """The id of a run if it lies where `torchrelay` looks by itself, else its whole URL, fit for a shell."""
    root, _, run_id = url.rpartition("/")
    return shlex.quote(run_id if storage_url(None) == root else url)


def program(name: str) -> str:
    """How to call a program installed with this one: by its name where the shell finds it, else by its path."""
    beside = Path(sys.argv[0]).with_name(name)
    return name if shutil.which(name) or not beside.exists() else shlex.quote(str(beside))
