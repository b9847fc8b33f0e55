"""What `torchrelay doctor --probe` runs in a pod: does it find its own name, can it write to storage and where it must?

    python -m torchrelay_launch.backends.kubernetes.probe --storage URL --name HOST [--writable FOLDER]...

Each finding is a line of JSON, on stdout and in the pod's termination message, so that no right to read logs is needed.
"""

import argparse
import importlib.metadata
import json
import os
import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from torchrelay import __version__
from torchrelay.contract.errors import TorchrelayError
from torchrelay.contract.storage import open_storage
from torchrelay_launch.backends.base import Finding
from torchrelay_launch.backends.kubernetes.pod_words import TERMINATION_LOG

DNS_S = 60.0  # until a new pod's name is known, and a refusal that was cached is forgotten
WORDS = 600  # characters of one finding; a termination message holds 4096 bytes


def main(argv: list[str]) -> int:
    """Look, and say what was found. Returns 1 if something is wrong."""
    parser = argparse.ArgumentParser(prog="torchrelay probe", allow_abbrev=False)
    parser.add_argument("--storage", required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--writable", action="append", default=[])
    given = parser.parse_args(argv)
    findings = [*_image(), _dns(given.name), _storage(given.storage), *map(_writable, given.writable)]
    lines = [json.dumps({"what": one.what, "says": one.says[:WORDS], "ok": one.ok}) for one in findings]
    print("\n".join(lines), flush=True)  # noqa: T201 - an entry point
    Path(os.environ.get("TORCHRELAY_TERMINATION_LOG", TERMINATION_LOG)).write_text("\n".join(lines))
    return int(any(one.ok is False for one in findings))


def _image() -> Iterator[Finding]:
    python = ".".join(map(str, sys.version_info[:3]))
    try:
        torch = f"torch {importlib.metadata.version('torch')}"
    except importlib.metadata.PackageNotFoundError:
        yield Finding("pod image", "holds no torch, which ranks need", ok=False)
        torch = "no torch"
    found = f"torchrelay {__version__}, Python {python}, {torch}, user {os.getuid()}"
    yield Finding("pod image", found, ok=True)


def _dns(name: str) -> Finding:
    mine, deadline = os.environ.get("TORCHRELAY_POD_IP", ""), time.monotonic() + DNS_S
    while True:
        try:
            found = sorted({str(one[4][0]) for one in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)})
            says = f"{name} is {', '.join(found)}"
            if mine in found:
                return Finding("pod dns", says, ok=True)
        except OSError as error:
            says = f"{name} is not known: {error.strerror or error}"
        if time.monotonic() > deadline:
            return Finding("pod dns", f"{says}; this pod is {mine or 'without an address'}", ok=False)
        time.sleep(0.5)


def _storage(url: str) -> Finding:
    path, text = f".probe-{secrets.token_hex(4)}", b"torchrelay"
    try:
        storage = open_storage(url)
        storage.create(path, text)
        try:
            same = storage.read(path) == text
        finally:
            storage.delete(path)
    except (TorchrelayError, OSError) as error:
        return Finding("pod storage", f"{url}: {error}", ok=False)
    return Finding(
        "pod storage", f"{url}: written, read and deleted" if same else f"{url} lost what was written", ok=same
    )


def _writable(folder: str) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return Finding("pod disk", f"{folder} can be written", ok=True)
    except OSError as error:
        return Finding("pod disk", f"{folder} cannot be written: {error.strerror or error}", ok=False)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
