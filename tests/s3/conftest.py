"""A real S3 server over HTTP for the whole session, a fresh bucket for each test, and a proxy that fails."""

import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for faulty_proxy, which lies beside the tests
sys.path.append(str(HERE.parent / "runtime"))  # for ranks
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
}


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of the server. It ends with the pipe to its standard input, so also when pytest is killed."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(HERE / "moto_server.py")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment | SETTINGS,
    )
    assert process.stdin
    assert process.stdout
    port = process.stdout.readline().strip().decode()
    assert port, "the S3 server did not start"
    yield f"http://127.0.0.1:{port}"
    process.stdin.close()
    process.wait(timeout=20)
    process.stdout.close()


@pytest.fixture
def s3_environment(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Endpoint, region and credentials in the environment, as a user has them; gives the endpoint."""
    for name, value in (SETTINGS | {"AWS_ENDPOINT_URL": s3_server}).items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "TORCHRELAY_STORAGE_OPTIONS"):
        monkeypatch.delenv(name, raising=False)
    return s3_server


@pytest.fixture
def s3_bucket(s3_environment: str) -> str:
    """Name of a bucket of its own."""
    name = f"test-{secrets.token_hex(6)}"
    request = urllib.request.Request(f"{s3_environment}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200
    return name


@pytest.fixture
def s3_url(s3_bucket: str) -> str:
    """URL of an empty folder in S3."""
    return f"s3://{s3_bucket}/runs"
