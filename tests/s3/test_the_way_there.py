"""Endpoint, region and credentials as users of botocore and fsspec have them: files and variables."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_settings import SECRET, SETTINGS, client

LIST = ["-m", "torchrelay_launch", "ls", "--storage"]
KEYS = f"aws_access_key_id = {SETTINGS['AWS_ACCESS_KEY_ID']}\naws_secret_access_key = {SECRET}\n"
NOBODY = "aws_access_key_id = nobody\naws_secret_access_key = nothing\n"
NOWHERE = "region = us-east-1\nendpoint_url = http://127.0.0.1:9\n"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def default_profile(home: Path, endpoint: str) -> dict[str, str]:
    write(home / ".aws/credentials", f"[default]\n{KEYS}")
    write(home / ".aws/config", f"[default]\nregion = us-east-1\nendpoint_url = {endpoint}\n")
    return {}


def other_profile(home: Path, endpoint: str) -> dict[str, str]:
    write(home / ".aws/credentials", f"[default]\n{NOBODY}[research]\n{KEYS}")
    write(
        home / ".aws/config", f"[default]\n{NOWHERE}[profile research]\nregion = us-east-1\nendpoint_url = {endpoint}\n"
    )
    return {"AWS_PROFILE": "research"}


def profile_of_the_spec(home: Path, endpoint: str) -> dict[str, str]:
    other_profile(home, endpoint)
    return {"TORCHRELAY_STORAGE_OPTIONS": '{"profile": "research"}'}


def services_of_a_profile(home: Path, endpoint: str) -> dict[str, str]:
    write(home / ".aws/credentials", f"[default]\n{KEYS}")
    services = f"[services lab]\ns3 =\n  endpoint_url = {endpoint}\n"
    write(home / ".aws/config", f"[default]\nregion = us-east-1\nservices = lab\n{services}")
    return {}


def fsspec_file(home: Path, endpoint: str) -> dict[str, str]:
    mine = {"s3": {"endpoint_url": endpoint, "key": SETTINGS["AWS_ACCESS_KEY_ID"], "secret": SECRET}}
    write(home / ".config/fsspec/lab.json", json.dumps(mine))
    return {"AWS_DEFAULT_REGION": "us-east-1"}


def fsspec_variables(_home: Path, endpoint: str) -> dict[str, str]:
    return {
        "FSSPEC_S3_ENDPOINT_URL": endpoint,
        "FSSPEC_S3_KEY": SETTINGS["AWS_ACCESS_KEY_ID"],
        "FSSPEC_S3_SECRET": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


WAYS: list[Callable[[Path, str], dict[str, str]]] = [
    default_profile,
    other_profile,
    profile_of_the_spec,
    services_of_a_profile,
    fsspec_file,
    fsspec_variables,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_the_storage_is_found(
    way: Callable[[Path, str], dict[str, str]], s3_bucket: str, s3_environment: str, tmp_path: Path
) -> None:
    """By what the way says alone: nothing else is in the environment."""
    run = {"run_id": "j-1", "name": "j", "created_at": 0.0, "torchrelay": "0"}
    client(s3_environment).put_object(Bucket=s3_bucket, Key="runs/j-1/run.json", Body=json.dumps(run).encode())
    clean = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    clean |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true"} | way(tmp_path, s3_environment)
    ran = subprocess.run(
        [sys.executable, *LIST, f"s3://{s3_bucket}/runs"],
        env=clean,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "j-1" in ran.stdout
    assert SECRET not in ran.stdout + ran.stderr
