"""A real S3 server over HTTP for the whole session, a fresh bucket for each test, and a proxy that fails.

The server is moto, or what TORCHRELAY_TEST_S3_ENDPOINT names (on_ceph.sh sets it).
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3_settings import SETTINGS, client

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for faulty_proxy, which lies beside the tests
sys.path.append(str(HERE.parent / "runtime"))  # for ranks


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Endpoint of the server. Ours ends with the pipe to its standard input, so also when pytest is killed."""
    if given := os.environ.get("TORCHRELAY_TEST_S3_ENDPOINT"):
        yield given
        return
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
    client(s3_environment).create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_url(s3_bucket: str) -> str:
    """URL of an empty folder in S3."""
    return f"s3://{s3_bucket}/runs"
