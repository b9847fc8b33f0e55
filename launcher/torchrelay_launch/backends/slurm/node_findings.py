"""From what the nodes said of themselves to findings, each with what to do: pure functions."""

from collections.abc import Callable, Iterator, Mapping, Sequence

from torchrelay.contract import node_report
from torchrelay.contract.node_report import NodeReport
from torchrelay_launch.backends.base import Finding
from torchrelay_launch.spec.models import JobSpec

Reports = Sequence[NodeReport]
CLOCK_NOTE_S, CLOCK_LIMIT_S = 0.5, 5.0
FEWEST_FILES = 4096  # a rank with loaders and a rendezvous of many peers goes through a thousand
LEAST_SHARED_BYTES = 1 << 30
SLOW_S = 5.0  # for a file of one node to be seen by the others


def conclude(found: Mapping[int, NodeReport | None], first: Mapping[str, object], job: JobSpec) -> Iterator[Finding]:
    """Compare the nodes. `first`: what the batch script found on the first node."""
    nodes = names(first)
    silent = [nodes[node] if node < len(nodes) else str(node) for node, report in found.items() if report is None]
    reports = [report for report in found.values() if report is not None]
    looked = f"{len(reports)} nodes: {', '.join(f'{report.node} {report.host}' for report in reports)}"
    yield Finding("nodes", looked, ok=True)
    if silent:
        says = f"nothing came from {', '.join(silent)}: is the storage the same there, and Python at the same path?"
        yield Finding("nodes", says, ok=False)
    yield from _unfinished(reports)
    yield from _seen(reports)
    yield from _alike(reports, job)
    for check in (_torch, _gpus, _reduced, _clocks, _limits):
        yield from check(reports)
    yield _submits(first)


def names(first: Mapping[str, object]) -> list[str]:
    """The nodes of the allocation, node 0 first."""
    listed = first.get("nodes")
    return [str(one) for one in listed] if isinstance(listed, list) else []


def _unfinished(reports: Reports) -> Iterator[Finding]:
    for report in reports:
        if report.stage != node_report.DONE:
            says = f"node {_name(report)} got as far as {report.stage}, and died or hung there; its output says more"
            yield Finding("nodes", says, ok=False)


def _seen(reports: Reports) -> Iterator[Finding]:
    """Whether what one node wrote was seen by all."""
    blind = [report for report in reports if report.missing_nodes]
    for report in blind:
        missing = ", ".join(map(str, report.missing_nodes))
        says = f"node {_name(report)} does not see what node {missing} wrote: storage must be one for all nodes"
        yield Finding("storage", says, ok=False)
    if not blind:
        slowest = max((report.seen_after_s for report in reports), default=0.0)
        says = f"written on every node, and seen by all others within {slowest:.1f} s"
        if slowest > SLOW_S:
            says += "; that is long: attribute caching (mount option actimeo) delays claims and stops by as much"
        yield Finding("storage", says, ok=True if slowest <= SLOW_S else None)


def _alike(reports: Reports, job: JobSpec) -> Iterator[Finding]:
    """What must be the same everywhere."""
    asked: list[tuple[str, Callable[[NodeReport], str], str]] = [
        ("python", lambda one: one.python, "name one for all with slurm.python"),
        ("torchrelay", lambda one: one.torchrelay, "install the same everywhere, or share one environment"),
        ("workdir", lambda one: one.workdir, "submit from a folder that all nodes share"),
    ]
    if job.script:
        asked.append((job.script, lambda one: one.program, "submit from a folder that all nodes share"))
    for what, of, advice in asked:
        yield _same(what, of, reports, advice)


def _same(what: str, of: Callable[[NodeReport], str], reports: Reports, advice: str) -> Finding:
    values = {_name(report): of(report) for report in reports}
    unreadable = [value for value in values.values() if value.startswith("cannot be read")]
    if len(set(values.values())) == 1 and not unreadable:
        return Finding("code", f"{what} is the same everywhere: {next(iter(values.values()))}", ok=True)
    listed = ", ".join(f"{node}: {value}" for node, value in values.items())
    return Finding("code", f"{what} differs or is missing ({listed}): {advice}", ok=False)


def _torch(reports: Reports) -> Iterator[Finding]:
    for report in reports:
        if report.torch_error:
            says = f"cannot be imported on node {_name(report)}: {report.torch_error}; install torchrelay[train] there"
            yield Finding("torch", says, ok=False)
    there = [report for report in reports if report.torch]
    if len({report.torch for report in there}) > 1:
        listed = ", ".join(f"{_name(report)}: {report.torch}" for report in there)
        yield Finding("torch", f"differs between the nodes ({listed}): install one version", ok=False)
    elif there:
        yield Finding("torch", f"{there[0].torch} on {len(there)} nodes", ok=True)


def _gpus(reports: Reports) -> Iterator[Finding]:
    for report in reports:
        for error in report.gpu_errors:
            says = f"node {_name(report)}: {error}; leave it out with slurm.exclude, and tell whoever runs the cluster"
            yield Finding("GPUs", says, ok=False)
    counts = {len(report.gpus) for report in reports}
    if counts - {0}:
        kinds = sorted({gpu for report in reports for gpu in report.gpus})
        each = " or ".join(map(str, sorted(counts)))
        yield Finding("GPUs", f"{each} on each node compute: {', '.join(kinds)}", ok=None if len(counts) > 1 else True)


def _reduced(reports: Reports) -> Iterator[Finding]:
    for report in reports:
        if report.reduce_error:
            name = {"nccl": "NCCL_SOCKET_IFNAME"}.get(report.process_group, "GLOO_SOCKET_IFNAME")
            says = f"{report.process_group} on node {_name(report)}: {report.reduce_error}"
            advice = f"; set {name} in `env:` to the network that the nodes share, and see that no firewall is between"
            yield Finding("all-reduce", says + advice, ok=False)
    times = [report.reduce_s for report in reports if report.reduce_s is not None]
    if times:
        says = f"{reports[0].process_group}: 16 MiB summed over {len(times)} nodes in {max(times) * 1000:.0f} ms"
        yield Finding("all-reduce", says, ok=True)


def _clocks(reports: Reports) -> Iterator[Finding]:
    """The nodes' clocks at the moment when all had met."""
    clocks = {_name(report): report.met_at for report in reports if report.met_at is not None}
    if len(clocks) < 2:
        return
    early, late = min(clocks, key=lambda one: clocks[one]), max(clocks, key=lambda one: clocks[one])
    apart = clocks[late] - clocks[early]
    if apart <= CLOCK_NOTE_S:
        yield Finding("clocks", f"of the nodes agree to {apart:.2f} s", ok=True)
        return
    says = f"of {late} and {early} are {apart:.1f} s apart: have all nodes follow one time server (chrony, ntpd)"
    yield Finding("clocks", says, ok=False if apart > CLOCK_LIMIT_S else None)


def _limits(reports: Reports) -> Iterator[Finding]:
    files = [report for report in reports if 0 <= report.open_files < FEWEST_FILES]
    for report in files:
        says = f"node {_name(report)}: {report.open_files} open files; put `ulimit -n {FEWEST_FILES}` into slurm.setup"
        yield Finding("limits", says, ok=None)
    gpus = [report for report in reports if report.gpus and report.locked_bytes >= 0]
    for report in gpus:
        says = f"node {_name(report)}: locked memory is limited, which InfiniBand does not bear (ulimit -l unlimited)"
        yield Finding("limits", says, ok=None)
    small = [one for one in reports if one.shared_bytes is not None and one.shared_bytes < LEAST_SHARED_BYTES]
    for report in small:
        says = f"node {_name(report)}: {(report.shared_bytes or 0) >> 20} MiB free in /dev/shm, where loaders' workers"
        yield Finding("limits", f"{says} hand over batches; set train.data.workers: 0, or free it", ok=None)
    if not files + gpus + small:
        yield Finding("limits", "open files, locked memory and /dev/shm are enough on all nodes", ok=True)


def _submits(first: Mapping[str, object]) -> Finding:
    error = first.get("submit_error")
    if not error:
        return Finding("requeue", "the first node may submit jobs, so a run can go on as a new one", ok=True)
    says = (
        f"no job can be submitted from the nodes, so a run goes on as the same job, which Slurm holds first ({error})"
    )
    return Finding("requeue", says, ok=None)


def _name(report: NodeReport) -> str:
    return f"{report.node} ({report.host})"
