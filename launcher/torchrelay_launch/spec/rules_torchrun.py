"""Rules for `torchrun:`, the options that are passed through."""

from typing import Any

from torchrelay_launch.spec.decode import Decoded
from torchrelay_launch.spec.names import nearest
from torchrelay_launch.spec.tree import Mapping

OURS = {
    # option: what to set instead
    "nnodes": "`resources.nodes`",
    "nproc-per-node": "`resources.procs_per_node` or `resources.gpus_per_node`",
    "node-rank": "`resources.nodes`",
    "master-addr": "nothing: the launcher finds it",
    "master-port": "nothing: the launcher finds it",
    "local-addr": "nothing: the launcher finds it",
    "rdzv-backend": "`resources.nodes`",
    "rdzv-endpoint": "nothing: the launcher finds it",
    "rdzv-id": "nothing: the launcher makes it",
    "rdzv-conf": "nothing: the launcher makes it",
    "standalone": "`resources.nodes: 1`",
    "max-restarts": "`restarts.torchrun`",
    "shutdown-timeout": "`restarts.grace`",
    "signals-to-handle": "nothing: the supervisor passes signals on",
    "module": "`module`",
    "m": "`module`",
    "log-dir": "nothing: logs are kept with the run",
    "redirects": "nothing: logs are kept with the run",
    "r": "nothing: logs are kept with the run",
    "tee": "nothing: logs are kept with the run",
    "t": "nothing: logs are kept with the run",
    "log-line-prefix-template": "nothing: lines are named by rank",
    "training-script": "`script`",
    "print-completion": "nothing",
    "help": "nothing",
    "h": "nothing",
}
PASSED = {
    *("monitor-interval", "start-method", "event-log-handler", "role", "numa-binding", "logs-specs"),
    *("local-ranks-filter", "duplicate-stdout-filters", "duplicate-stderr-filters"),
    *("virtual-local-rank", "no-python", "run-path"),
}
_FLAGS = {"virtual-local-rank", "no-python", "run-path"}
_SCRIPT_ONLY = {"no-python", "run-path"}


def check_torchrun(found: Decoded) -> None:
    """Add problems of passed-through options. Names that torchrelay does not know pass, for torchruns to come."""
    options = found.nodes.get("torchrun")
    for key in options.entries if isinstance(options, Mapping) else ():
        path, name = f"torchrun.{key}", key.replace("_", "-")
        problem, hint = _name_problem(name, found)
        if problem:
            found.problem(found.place(path), f"{path}: {problem}", hint)
        elif path in found.values:
            problem, hint = _value_problem(name, found.values[path])
            if problem:
                found.problem(found.nodes[path].place, f"{path}: {problem}", hint)


def _name_problem(name: str, found: Decoded) -> tuple[str, str]:
    if name in OURS:
        return "torchrelay sets this option itself", f"use {OURS[name]}"
    if not (name.isascii() and name.islower() and name.replace("-", "_").isidentifier() and name[0] not in "-_"):
        return "not a long option of torchrun", "write its name without dashes in front, such as numa-binding"
    if name in _SCRIPT_ONLY and not found.has("script"):
        return "this option goes with `script` only", ""
    if name in PASSED:
        return "", ""
    # argparse takes the beginning of an option for the option
    meant = next((known for known in sorted({*OURS, *PASSED}) if known.startswith(name)), None) or nearest(
        name, [known for known in {*OURS, *PASSED} if len(known) > 2]
    )
    return ("not an option of torchrun", f"did you mean `{meant}`?") if meant else ("", "")


def _value_problem(name: str, value: Any) -> tuple[str, str]:
    if name in _FLAGS:
        return ("", "") if value is True else ("this option takes no value", "write true, or leave it out")
    if isinstance(value, bool) and name in PASSED:
        return "this option needs a value", ""
    if value is False or value is None:
        return "expected a value, or true for an option without one", "leave the option out"
    if isinstance(value, (list, dict)):
        return "expected text or a number, not a list or mapping", "write it as torchrun expects it, in quotes"
    return "", ""
