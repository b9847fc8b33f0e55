"""The submitting shell's environment as a file, read back by bash."""

import os
import stat
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.slurm import shell_environment

VALUES = st.binary(max_size=40).map(lambda value: value.replace(b"\0", b""))


def read_back(environment: dict[bytes, bytes], folder: Path) -> dict[bytes, bytes]:
    """What bash has after it sourced the file."""
    file = folder / "a.env"
    shell_environment.write(str(file), shell_environment.as_shell(environment, "/s"))
    done = subprocess.run(
        ["/bin/bash", "-c", '. "$1"; env -0', "bash", str(file)], env={}, capture_output=True, check=True, timeout=20
    )
    assert not done.stderr
    return dict(entry.split(b"=", 1) for entry in done.stdout.split(b"\0") if entry)  # type: ignore[misc]


@settings(max_examples=15)
@given(value=VALUES)
def test_any_value_comes_back(value: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert read_back({b"NAME": value}, tmp_path_factory.mktemp("env"))[b"NAME"] == value


def test_exported_functions_come_along(tmp_path: Path) -> None:
    shell_environment.write(
        str(tmp_path / "a.env"), shell_environment.as_shell({b"BASH_FUNC_module%%": b"() {  echo loaded $1\n}"}, "/s")
    )
    done = subprocess.run(
        ["/bin/bash", "-c", f'. "{tmp_path}/a.env"; bash -c "module cuda"'], capture_output=True, text=True, check=True
    )
    assert done.stdout == "loaded cuda\n"


@pytest.mark.parametrize(
    "name",
    [
        "SLURM_JOB_ID",
        "SBATCH_PARTITION",
        "TORCHRELAY_RUN",
        "TORCHRELAY_TOKEN",
        "UID",
        "PWD",
        "HOSTNAME",
        "TMPDIR",
        "not-a-name",
    ],
)
def test_what_belongs_to_the_shell_or_the_node_stays_there(name: str) -> None:
    assert f"{name}=".encode() not in shell_environment.as_shell({name.encode(): b"x"}, "/s")


def test_the_file_is_its_owners_from_the_first_byte(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.env"
    earlier = os.umask(0)
    try:
        shell_environment.write(str(file), b"x")
        shell_environment.write(str(file), b"y")
    finally:
        os.umask(earlier)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_bytes() == b"y"


def test_missing_secrets_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("THERE", "x")
    monkeypatch.delenv("AWAY", raising=False)
    with pytest.raises(ConfigError, match="AWAY"):
        shell_environment.check_secrets(["THERE", "AWAY"])
