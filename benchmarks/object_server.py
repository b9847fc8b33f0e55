"""The S3 server of the tests, for benchmarks."""

import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tools import ENVIRONMENT, PYTHON, ROOT

SETTINGS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def s3_server(bucket: str = "bench") -> Iterator[dict[str, str]]:
    """Run the server with one bucket in it; gives the environment by which programs find it."""
    command = [PYTHON, "-W", "ignore", str(ROOT / "tests" / "s3" / "moto_server.py")]
    plain = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("AWS_")}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=plain | SETTINGS
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            endpoint = f"http://127.0.0.1:{process.stdout.readline().strip().decode()}"
            request = urllib.request.Request(f"{endpoint}/{bucket}", method="PUT")
            with urllib.request.urlopen(request, timeout=30):
                yield SETTINGS | {"AWS_ENDPOINT_URL": endpoint}
        finally:
            process.stdin.close()  # ends it
