"""The environment of the shell that submits, as a file that the batch script sources, and that only its owner can read.

`sbatch --export=ALL` would do the same, but writes every value into slurmctld's state and, where a site keeps job
environments, into the accounting data base. Here it lies in the run's folder with mode 0600.
"""

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from torchrelay.contract.errors import ConfigError, StorageError

_NAME = re.compile(rb"[A-Za-z_][A-Za-z0-9_]*")
_FUNCTION = re.compile(rb"BASH_FUNC_([A-Za-z_][A-Za-z0-9_:.-]*)(?:%%|\(\))")
# Of the submitting shell or its own job, or read-only in bash.
_LEFT_OUT = re.compile(
    rb"(SLURM|SBATCH|SRUN|PMI)_?.*|TORCHRELAY_(RUN|ATTEMPT|RESTART|NODE|REPORTS|TOKEN|COORDINATOR|SCRIPT)"
    rb"|_|SHLVL|PWD|OLDPWD|BASHOPTS|SHELLOPTS|UID|EUID|PPID"
)
_OF_THE_NODE = re.compile(rb"HOSTNAME|TMPDIR|XDG_RUNTIME_DIR|CUDA_VISIBLE_DEVICES|ROCR_VISIBLE_DEVICES|DISPLAY|SSH_.*")


def check_secrets(names: list[str]) -> None:
    """Raises: ConfigError, naming those that this shell does not have."""
    missing = [name for name in names if name not in os.environ]
    if missing:
        raise ConfigError(f"secrets: not set in this shell: {', '.join(missing)}; try `export {missing[0]}=...`")


def as_shell(environment: Mapping[bytes, bytes], script: str) -> bytes:
    """Bash code that sets these variables and functions. `script`: path of the batch script that sources it."""
    lines = []
    for name, value in sorted(environment.items()):
        function = _FUNCTION.fullmatch(name)
        if function and value.startswith(b"() {"):
            lines.append(function[1] + b" " + value + b"\nexport -f " + function[1])
        elif _NAME.fullmatch(name) and not _LEFT_OUT.fullmatch(name) and not _OF_THE_NODE.fullmatch(name):
            lines.append(b"export " + name + b"=" + _quoted(value))
    lines.append(b"export TORCHRELAY_SCRIPT=" + os.fsencode(shlex.quote(script)))
    return b"\n".join(lines) + b"\n"


def write(path: str, data: bytes) -> None:
    """Write the file anew with mode 0600, never readable by others in between. Raises: StorageError."""
    try:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror or error}") from error


def _quoted(value: bytes) -> bytes:
    return b"'" + value.replace(b"'", b"'\"'\"'") + b"'"
