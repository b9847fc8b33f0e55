"""torchrelay logs."""

import argparse
import sys
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from torchrelay.contract import log_lines
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.storage import Storage, on_object_storage
from torchrelay_launch.afar import Afar
from torchrelay_launch.arguments import add_run, at_least, explain
from torchrelay_launch.display.style import note
from torchrelay_launch.display.text import clean
from torchrelay_launch.ending import leaving
from torchrelay_launch.runs.locate import find_run
from torchrelay_launch.runs.status import run_status
from torchrelay_launch.tailing import LogTail, node_logs, whole_lines

_LOOK_EVERY_S = 0.3
_OBJECT_STORAGE_LOOK_S = 3.0


@dataclass(frozen=True)
class Wanted:
    """Which lines to print."""

    node: int | None
    rank: int | None

    def __call__(self, line: str) -> bool:
        if self.node is None and self.rank is None:
            return True
        parsed = log_lines.parse(line)
        if parsed is None:
            return False
        return self.node in (None, parsed.node) and self.rank in (None, parsed.rank)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "Print what the ranks, torchrun and the supervisors of an attempt printed, node by node. Every line begins "
        "with its node and rank. With -f new lines are printed as they come, through restarts and resumes, until the "
        "run ends.",
        "torchrelay logs digits-20261121-101500-a1b2 --rank 1 --tail 50",
        "torchrelay logs digits-20261121-101500-a1b2 -f",
    )
    add_run(parser)
    parser.add_argument("-f", "--follow", action="store_true", help="go on printing until the run ends")
    parser.add_argument("--attempt", metavar="N", type=at_least(1), help="the attempt, from 1 (default: the newest)")
    parser.add_argument("--node", metavar="N", type=at_least(0), help="only lines of this node, from 0")
    parser.add_argument("--rank", metavar="N", type=at_least(0), help="only lines of this rank, from 0")
    parser.add_argument("--tail", metavar="N", type=at_least(0), help="of each node only the last N of these lines")


def run(args: argparse.Namespace) -> int:
    storage = find_run(args.run_name, args.storage)
    status = run_status(storage)
    attempt = args.attempt or status.attempts
    if not 1 <= attempt <= status.attempts:
        raise ConfigError(f"the run {status.run_id} has no attempt {attempt}; it has {status.attempts}")
    wanted = Wanted(args.node, args.rank)
    if args.follow:
        _follow(storage, attempt, wanted, args)
        return 0
    count = _print_attempt(storage, attempt, wanted, args.tail)
    said = Afar(storage, quiet=args.quiet).last_words(status, attempt)
    _write_all(said if args.tail is None else said[len(said) - args.tail :], wanted)
    if not count and not said:
        note(f"attempt {attempt} has no such lines in its logs", quiet=args.quiet)
    return 0


def _print_attempt(storage: Storage, attempt: int, wanted: Wanted, tail: int | None) -> int:
    """Print one attempt's lines. Returns how many."""
    count = 0
    for path in node_logs(storage, attempt):
        lines: Iterable[str] = filter(wanted, (line.text for line in whole_lines(storage, path, unfinished=True)))
        if tail is not None:
            lines = deque(lines, maxlen=tail)
        for line in lines:
            _write(line)
            count += 1
    return count


def _follow(storage: Storage, attempt: int, wanted: Wanted, args: argparse.Namespace) -> None:
    """Print lines until the attempt, or without --attempt the run, has ended."""
    log, afar = LogTail(storage, attempt), Afar(storage, quiet=args.quiet)
    if args.tail is not None:
        _write_all(log.skip(args.tail, wanted), wanted)
    while True:
        status = afar.status()
        newer = status.attempts > attempt
        ended = newer or not (status.live or status.unreachable or leaving(status.history[-1]))
        _write_all(log.new_lines(final=ended), wanted)
        _write_all(afar.last_words(status, attempt), wanted)
        if not ended:
            time.sleep(_OBJECT_STORAGE_LOOK_S if on_object_storage(storage) else _LOOK_EVERY_S)
        elif newer and args.attempt is None:
            attempt += 1
            log = LogTail(storage, attempt)
            note(f"attempt {attempt}", quiet=args.quiet)
        else:
            return


def _write_all(lines: list[str], wanted: Wanted) -> None:
    for line in lines:
        if wanted(line):
            _write(line)
    sys.stdout.flush()


def _write(line: str) -> None:
    sys.stdout.write(f"{clean(line, colour=sys.stdout.isatty())}\n")
