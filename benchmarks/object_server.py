"""The S3 server of the tests, or another one, for benchmarks."""

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tools import ENVIRONMENT, PYTHON, ROOT

sys.path.append(str(ROOT / "tests" / "harness"))

from s3_settings import SETTINGS, client


@dataclass(frozen=True)
class S3Server:
    """A server with a bucket."""

    name: str  # by its own word
    endpoint: str
    bucket: str

    @property
    def environment(self) -> dict[str, str]:
        """By which programs find it."""
        return SETTINGS | {"AWS_ENDPOINT_URL": self.endpoint}

    def clear(self) -> None:
        """Delete what is in the bucket."""
        s3 = client(self.endpoint)
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket=self.bucket):
            for found in page.get("Contents", []):
                s3.delete_object(Bucket=self.bucket, Key=found["Key"])


@contextmanager
def s3_server(bucket: str = "bench") -> Iterator[S3Server]:
    """A server with one bucket in it: that of TORCHRELAY_TEST_S3_ENDPOINT, or moto, which is run meanwhile."""
    given = os.environ.get("TORCHRELAY_TEST_S3_ENDPOINT")
    if given:
        yield _connect(given, bucket)
        return
    command = [PYTHON, "-W", "ignore", str(ROOT / "tests" / "s3" / "moto_server.py")]
    plain = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("AWS_")}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=plain | SETTINGS
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield _connect(f"http://127.0.0.1:{process.stdout.readline().strip().decode()}", bucket)
        finally:
            process.stdin.close()  # ends it


def _connect(endpoint: str, bucket: str) -> S3Server:
    with urllib.request.urlopen(endpoint, timeout=30) as answer:
        name = answer.headers.get("Server", "an unnamed server").partition(" (")[0]
    server = S3Server(name, endpoint, bucket)
    client(endpoint).create_bucket(Bucket=bucket)
    return server
