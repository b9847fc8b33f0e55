"""torchrelay stop."""

import argparse
import contextlib
import time
from collections import Counter
from typing import Literal

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import ExitCode, RunState
from torchrelay.contract.storage import Storage, on_object_storage, open_storage
from torchrelay_launch.afar import Afar
from torchrelay_launch.arguments import add_run_or_sweep, explain
from torchrelay_launch.backends.base import load_backend
from torchrelay_launch.display.naming import name_for_user
from torchrelay_launch.display.style import note
from torchrelay_launch.ending import leaving
from torchrelay_launch.runs.locate import find_run
from torchrelay_launch.runs.status import RunStatus, run_status
from torchrelay_launch.runs.stop import request_stop
from torchrelay_launch.runs.sweeps import Sweep, ask_to_start_no_more, look_for_sweep, sweep_status

Kind = Literal["stop", "cancel"]
_LOOK_EVERY_S = 0.2
_OBJECT_STORAGE_LOOK_S = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Ask a running run to finish its step, save a checkpoint and stop, and wait until it has. It may take up to "
        "the spec's `restarts.grace`. `torchrelay resume` goes on from there. Of a sweep all runs are stopped, and "
        "none is started any more.",
        "torchrelay stop digits-20261121-101500-a1b2",
    )
    add_run_or_sweep(parser)
    parser.add_argument("--no-wait", action="store_true", help="return when it has been asked")


def run(args: argparse.Namespace) -> int:
    return ask(args, "stop")


def ask(args: argparse.Namespace, kind: Kind) -> int:
    """Ask the run to stop, wait for it unless told not to, and say how it ended. Returns the exit code."""
    sweep = look_for_sweep(args.run_name, args.storage)
    if sweep is not None:
        return _ask_all(sweep, args, kind)
    storage = find_run(args.run_name, args.storage)
    status = run_status(storage)
    attempt = status.attempts
    request_stop(storage, kind)
    _tell_backend(storage, status.backend, kind)
    if args.no_wait:
        note(f"asked {name_for_user(storage.url)} to {kind}", quiet=args.quiet)
        return 0
    note("waiting until it has stopped (Ctrl-C to wait no longer; it stops all the same)", quiet=args.quiet)
    if kind == "cancel":
        with contextlib.suppress(ConfigError):  # it has ended since it was asked
            load_backend(status.backend).cancel(storage)
    return _report(_wait(storage, attempt, quiet=args.quiet), kind)


def _ask_all(sweep: Sweep, args: argparse.Namespace, kind: Kind) -> int:
    """The same for all runs of a sweep that are not over, and no further one is started. Raises: ConfigError."""
    ask_to_start_no_more(sweep, kind)
    before = sweep_status(sweep)
    alive = [point.run for point in before if point.run is not None and point.run.live]
    if not alive and not any(point.state == "not started" for point in before):
        raise ConfigError(f"no run of the sweep {sweep.sweep_id} is running; there is nothing to {kind}")
    for status in alive:
        with contextlib.suppress(ConfigError):  # it has ended since it was asked
            request_stop(open_storage(status.url), kind)
            _tell_backend(open_storage(status.url), status.backend, kind)
    name = name_for_user(sweep.storage.url)
    if args.no_wait:
        note(f"asked {len(alive)} runs of {name} to {kind}", quiet=args.quiet)
        return 0
    note("waiting until all have stopped (Ctrl-C to wait no longer; they stop all the same)", quiet=args.quiet)
    for status in alive:
        storage = open_storage(status.url)
        if kind == "cancel":
            with contextlib.suppress(ConfigError):  # it has ended since it was asked
                load_backend(status.backend).cancel(storage)
        _wait(storage, status.attempts, quiet=args.quiet)
    counts = Counter(point.state for point in sweep_status(sweep))
    print(f"{', '.join(f'{count} {state}' for state, count in counts.items())}; `torchrelay resume {name}` goes on")
    return 0


def _tell_backend(storage: Storage, backend: str, kind: Kind) -> None:
    """An attempt that waits in a queue has no supervisor to see the request."""
    if backend in ("slurm", "kubernetes"):
        with contextlib.suppress(ConfigError):  # it has ended since it was asked
            getattr(load_backend(backend), kind)(storage)


def _wait(storage: Storage, attempt: int, *, quiet: bool) -> RunStatus:
    """The status of the run once the attempt has ended, its supervisor too, or a newer one has begun."""
    afar = Afar(storage, quiet=quiet)
    while (status := afar.status()).attempts == attempt and (status.live or leaving(status.history[-1])):
        time.sleep(_OBJECT_STORAGE_LOOK_S if on_object_storage(storage) else _LOOK_EVERY_S)
    return status


def _report(status: RunStatus, kind: str) -> int:
    name, at = name_for_user(status.url), "" if status.step is None else f" at step {status.step}"
    saved = status.last_checkpoint_step
    on = "" if saved is None else f"; `torchrelay resume {name}` goes on from step {saved}"
    if status.state is RunState.COMPLETED:
        print(f"completed{at}, before it could {kind}")
        return 0
    if kind == "cancel":
        print(f"cancelled{at}{on}")
        return 0
    if status.state in (RunState.STOPPED, RunState.PREEMPTED):
        print(f"stopped{at}{on}")
        return 0
    print(f"{status.state}{at}: {status.error or 'it is running again'}{on}")
    return int(ExitCode.FAILED)
