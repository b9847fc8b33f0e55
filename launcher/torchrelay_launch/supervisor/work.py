"""What an attempt is to run, as its records in storage say."""

import importlib.util
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from torchrelay.contract import environment, layout, records, settings
from torchrelay.contract.errors import ConfigError, StorageError
from torchrelay.contract.records import AttemptRecord, SpecRecord
from torchrelay.contract.storage import Storage
from torchrelay_launch.spec.models import JobSpec
from torchrelay_launch.supervisor.first_failure import TORCH_MISSING

# Kept out of the log also where `secrets:` does not name them, unless they are as short as a test server's password.
STORAGE_SECRETS = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY")
LIKE_A_SECRET = 16  # characters


@dataclass(frozen=True)
class Work:
    """What this node is to run, as the attempt's records say."""

    storage: Storage
    job: JobSpec
    run_id: str
    workdir: str

    @property
    def secrets(self) -> list[str]:
        """The values to keep out of the log."""
        named = [os.environ[name] for name in self.job.secrets if os.environ.get(name)]
        implied = [os.environ.get(name, "") for name in STORAGE_SECRETS]
        return named + [value for value in implied if len(value) >= LIKE_A_SECRET]


def load_work(storage: Storage, attempt: int) -> Work:
    """Read the records of an attempt. Raises: ConfigError if there is no such attempt; StorageError."""
    run = records.read_run(storage)
    record = records.read(storage, AttemptRecord, layout.attempt_file(attempt, "attempt"))
    spec = records.read(storage, SpecRecord, layout.attempt_file(attempt, "spec"))
    if record is None or spec is None:
        raise ConfigError(f"the run {storage.url} has no attempt {attempt}")
    try:
        job = settings.from_json(JobSpec, spec.spec)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise StorageError(f"the spec of attempt {attempt} in {storage.url} is damaged: {error}") from error
    return Work(storage, job, run.run_id, os.environ.get(environment.WORKDIR) or record.workdir)


def check(job: JobSpec, workdir: str) -> None:
    """What would make every start fail. Raises: ConfigError."""
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(TORCH_MISSING)
    if not Path(workdir).is_dir():
        raise ConfigError(f"the job's folder {workdir} does not exist on {socket.gethostname()}")
    if job.script is not None and not (Path(workdir) / job.script).is_file():
        raise ConfigError(f"script: there is no file {job.script!r} in {workdir}")
