"""One node of a cluster looks at itself and at its way to the others, for `torchrelay doctor`.

    python -m torchrelay.node_check --folder URL --node 0 --nodes 2 --address HOST:PORT [--program FILE] [--gpus N]

Runs once on every node at the same time. Each stage is written down before it begins, so that a node that hangs or
dies shows where; torch comes late, so that the rest is known where it is missing.
"""

import argparse
import contextlib
import dataclasses
import os
import platform
import resource
import shutil
import socket
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from torchrelay import __version__
from torchrelay.contract import node_report
from torchrelay.contract.node_report import NodeReport
from torchrelay.contract.storage import Storage, open_storage

SEE_LIMIT_S = 20.0
MEET_LIMIT_S = 45.0
REDUCED_BYTES = 16 << 20
_ECC = "ecc.errors.uncorrected.volatile.total"


class Check:
    """The check of one node. `options`: node, nodes, address, program, gpus."""

    def __init__(self, storage: Storage, options: argparse.Namespace) -> None:
        self._storage, self._options = storage, options
        self._report = NodeReport(
            options.node, socket.gethostname(), python=platform.python_version(), torchrelay=__version__
        )

    def run(self) -> NodeReport:
        """Go through all stages, and return what was found. Raises: StorageError."""
        self._note("storage", workdir=str(Path.cwd()), program=_digest(self._options.program), **_limits())
        self._see_the_others()
        self._note("torch")
        if self._import_torch():
            self._note("GPUs")
            self._look_at_gpus()
            self._note("all-reduce")
            self._reduce()
        self._note(node_report.DONE)
        return self._report

    def _note(self, stage: str, **found: Any) -> None:
        self._report = dataclasses.replace(self._report, stage=stage, **found)
        node_report.write(self._storage, self._report)

    def _found(self, **found: Any) -> None:
        self._report = dataclasses.replace(self._report, **found)

    def _see_the_others(self) -> None:
        """Make a file and wait for those of the others."""
        began = time.monotonic()
        self._storage.create(node_report.met_file(self._options.node), self._report.host.encode())
        missing = list(range(self._options.nodes))
        while missing and time.monotonic() - began < SEE_LIMIT_S:
            missing = [node for node in missing if self._storage.size(node_report.met_file(node)) is None]
            if missing:
                time.sleep(0.1)
        self._found(missing_nodes=missing, seen_after_s=time.monotonic() - began)

    def _import_torch(self) -> bool:
        try:
            import torch
        except Exception as error:  # noqa: BLE001 - a broken installation raises anything
            self._found(torch_error=f"{type(error).__name__}: {error}")
            return False
        self._found(torch=torch.__version__)
        return True

    def _look_at_gpus(self) -> None:
        import torch

        gpus, errors = [], []
        if torch.cuda.device_count() < self._options.gpus:
            errors.append(f"torch sees {torch.cuda.device_count()} GPUs of {self._options.gpus}")
        for index in range(torch.cuda.device_count()):
            try:
                gpus.append(torch.cuda.get_device_name(index))
                _compute(index)
            except RuntimeError as error:
                errors.append(f"GPU {index} cannot compute: {str(error).splitlines()[0]}")
        self._found(gpus=gpus, gpu_errors=errors + (_driver_errors() if gpus else []))

    def _reduce(self) -> None:
        """Meet the other nodes, add numbers up with them, and look at the clock when all are there."""
        import torch
        import torch.distributed as dist

        backend = "nccl" if self._options.gpus and self._report.gpus else "gloo"
        self._found(process_group=backend)
        node, nodes = self._options.node, self._options.nodes
        try:
            dist.init_process_group(
                backend,
                init_method=f"tcp://{self._options.address}",
                rank=node,
                world_size=nodes,
                timeout=timedelta(seconds=MEET_LIMIT_S),
            )
            device = torch.device("cuda", 0) if backend == "nccl" else torch.device("cpu")
            began = _sum_over_nodes(node, nodes, device)
            taken = time.monotonic() - began
            dist.barrier()
            self._found(reduce_s=taken, met_at=time.time())
            dist.destroy_process_group()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
            self._found(reduce_error=f"{type(error).__name__}: {str(error).strip().splitlines()[0]}")


def _sum_over_nodes(node: int, nodes: int, device: Any) -> float:
    """Sum once to warm up and once more. Returns when the second began. Raises: RuntimeError for a wrong sum.

    Collective: yes
    """
    import torch
    import torch.distributed as dist

    began = 0.0
    for _ in range(2):
        values = torch.full((REDUCED_BYTES // 4,), float(node + 1), device=device)
        began = time.monotonic()
        dist.all_reduce(values)
        expected = nodes * (nodes + 1) / 2
        if not bool((values == expected).all()):
            raise RuntimeError(f"the sum is wrong: expected {expected}, got {values.min()} to {values.max()}")
    return began


def _compute(index: int) -> None:
    """Multiply on one GPU. Raises: RuntimeError if it fails or the result is wrong."""
    import torch

    ones = torch.ones(512, 512, device=f"cuda:{index}")
    product = ones @ ones
    if not bool((product == 512).all()):
        raise RuntimeError("a product of matrices is wrong")


def _driver_errors() -> list[str]:
    """What nvidia-smi counts as broken memory on the GPUs of this job."""
    if shutil.which("nvidia-smi") is None:
        return []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    argv = ["nvidia-smi", f"--query-gpu=index,{_ECC}", "--format=csv,noheader,nounits"]
    argv += [f"--id={visible}"] if visible else []
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"nvidia-smi does not answer: {error}"]
    if done.returncode != 0:
        return [f"nvidia-smi says: {(done.stdout + done.stderr).strip().splitlines()[0]}"]
    rows = [line.split(",") for line in done.stdout.splitlines()]
    bad = [(row[0].strip(), row[1].strip()) for row in rows if len(row) == 2 and row[1].strip().isdigit()]
    return [f"GPU {index} has {count} uncorrected memory errors" for index, count in bad if count != "0"]


def _limits() -> dict[str, int | None]:
    shared = None
    with contextlib.suppress(OSError):
        shared = shutil.disk_usage("/dev/shm").free  # noqa: S108 - where torch's workers hand over batches
    return {
        "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        "locked_bytes": resource.getrlimit(resource.RLIMIT_MEMLOCK)[0],
        "shared_bytes": shared,
    }


def _digest(program: str) -> str:
    """Of the job's own file as this node reads it; nothing if the job has none, and why if it cannot be read."""
    if not program:
        return ""
    import xxhash

    try:
        return xxhash.xxh3_128(Path(program).read_bytes()).hexdigest()
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def main(argv: list[str]) -> int:
    """Check this node. Returns 0 whatever was found."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--node", type=int, required=True)
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--program", default="")
    parser.add_argument("--gpus", type=int, default=0)
    options = parser.parse_args(argv)
    Check(open_storage(options.folder), options).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
