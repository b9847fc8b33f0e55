"""Whether this machine can run a job at all, found out before anything is started or written."""

import os
import re
from pathlib import Path

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.units import Size
from torchrelay_launch.spec.models import JobSpec, Resources
from torchrelay_launch.spec.names import nearest

MOST_RANKS_PER_CORE = 4
_PROC_GPUS = Path("/proc/driver/nvidia/gpus")
_DEVICES = Path("/dev")
_MEMINFO = Path("/proc/meminfo")


def check_local(job: JobSpec, storage_url: str = "") -> list[str]:
    """Warnings about running all of a job's nodes on this machine. Raises: ConfigError with all that can't work."""
    problems = [
        *_gpus(job.resources, job.process_group),
        *_too_many_ranks(job.resources),
        *_script(job.script),
        *_memory(job.resources),
        *_secrets(job.secrets),
        *_storage(storage_url or job.storage),
    ]
    if problems:
        raise ConfigError("this machine can't run the job:\n" + "\n".join(f"- {problem}" for problem in problems))
    return _busy_cores(job.resources)


def count_gpus() -> int:
    """GPUs that a process started here may use, without importing torch."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    here = _gpus_of_machine()
    if visible is None:
        return here
    named = [name.strip() for name in visible.split(",")]
    usable = 0
    for name in named:
        if not name or name.startswith("-"):
            break  # CUDA ignores everything after the first invalid entry
        usable += 1
    return min(usable, here)


def cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _gpus_of_machine() -> int:
    try:
        by_driver = len(os.listdir(_PROC_GPUS))
    except OSError:
        by_driver = 0
    try:
        by_device = sum(bool(re.fullmatch(r"nvidia\d+", name)) for name in os.listdir(_DEVICES))
    except OSError:
        by_device = 0
    # A container sees the driver's list of the whole machine, but has devices only for its own.
    return min(by_driver, by_device) if by_driver and by_device else max(by_driver, by_device)


def _ranks(resources: Resources) -> int:
    """Ranks on this machine at the least number of nodes: a rehearsal runs all nodes here."""
    return resources.nodes.minimum * resources.world_procs_per_node


def _gpus(resources: Resources, process_group: str) -> list[str]:
    nodes, here = resources.nodes.minimum, count_gpus()
    wanted = nodes * resources.gpus_per_node
    if wanted > here:
        each = f" ({nodes} nodes of {resources.gpus_per_node}, all on this machine)" if nodes > 1 else ""
        smaller = f"; try --set resources.gpus_per_node={here // nodes}" if here >= nodes else ""
        none = "none" if here == 0 else str(here)
        return [f"resources.gpus_per_node: {wanted} GPUs are asked for{each}, {none} can be used here{smaller}"]
    if process_group == "nccl" and here == 0:
        return ["process_group: nccl needs GPUs, and none can be used here; try --set process_group=gloo"]
    return []


def _too_many_ranks(resources: Resources) -> list[str]:
    ranks, most = _ranks(resources), MOST_RANKS_PER_CORE * cores()
    if ranks <= most:
        return []
    text = f"{ranks} ranks are asked for, and {cores()} cores can hardly run more than {most}"
    return [f"resources.procs_per_node: {text}; ask for fewer processes or nodes"]


def _busy_cores(resources: Resources) -> list[str]:
    wanted = _ranks(resources) * (resources.cpus_per_proc or 1)
    if wanted <= cores():
        return []
    return [f"{wanted} CPU cores are asked for and {cores()} can be used here, so ranks will wait for each other"]


def _script(script: str | None) -> list[str]:
    if script is None or Path(script).is_file():
        return []
    if Path(script).is_dir():
        return [f"script: {script} is a folder"]
    folder = Path(script).parent
    try:
        near = nearest(Path(script).name, os.listdir(folder))
    except OSError:
        return [f"script: there is no file {script}, and no folder {folder}"]
    suggestion = f"; did you mean {folder / near}?" if near else ""
    return [f"script: there is no file {script} below {Path.cwd()}{suggestion}"]


def _memory(resources: Resources) -> list[str]:
    here = _machine_memory()
    wanted = (resources.memory or 0) * resources.nodes.minimum
    if here is None or wanted <= here:
        return []
    return [f"resources.memory: {Size(wanted)} are asked for, and this machine has {here / 2**30:.1f}GiB"]


def _machine_memory() -> int | None:
    """Bytes of memory of this machine, or None if the kernel does not say."""
    try:
        match = re.search(r"^MemTotal:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(match[1]) * 1024 if match else None


def _secrets(names: list[str]) -> list[str]:
    missing = [name for name in names if name not in os.environ]
    return [f"secrets: {name} is not set in this shell; try `export {name}=...`" for name in missing]


def _storage(storage: str | None) -> list[str]:
    if storage is None or not storage.startswith("memory:"):
        return []
    return ["storage: memory:// lives in one process, and a run has several; name a folder or a bucket"]
