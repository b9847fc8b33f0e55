"""torchrelay checkpoints ls|verify|digest|prune."""

import argparse
import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from typing import Any

from torchrelay.contract import layout, lineage, manifest, records, retention
from torchrelay.contract.errors import CheckpointError, ConfigError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.layout import Writer
from torchrelay.contract.manifest import Committed
from torchrelay.contract.retention import Retention
from torchrelay.contract.settings import Json, from_json
from torchrelay.contract.storage import Storage
from torchrelay.contract.training import Checkpoint
from torchrelay_launch.arguments import add_json, add_run, at_least, explain
from torchrelay_launch.display import quantities
from torchrelay_launch.display.style import note, paint
from torchrelay_launch.display.table import table
from torchrelay_launch.runs.locate import find_run

_HEADER = ("STEP", "AGE", "SIZE", "RANKS", "METRICS", "STATE", "FOLDER")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    explain(
        parser,
        "List the checkpoints of a run, verify every byte of them, hash what they contain, or delete old ones.",
        "torchrelay checkpoints ls digits-20261121-101500-a1b2",
        "torchrelay checkpoints digest digits-20261121-101500-a1b2 --step 200 --json",
    )
    verbs = parser.add_subparsers(dest="action", metavar="ACTION", required=True, prog=parser.prog)
    for name, (_, says) in _ACTIONS.items():
        action = verbs.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
        action.add_argument("-q", "--quiet", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        add_run(action)
        add_json(action)
        if name in ("verify", "digest"):
            action.add_argument("--step", type=at_least(0), metavar="N", help="only the checkpoint of this step")
        if name == "prune":
            _add_prune_arguments(action)


def run(args: argparse.Namespace) -> int:
    return _ACTIONS[args.action][0](find_run(args.run_name, args.storage), args)


def _list(storage: Storage, args: argparse.Namespace) -> int:
    contents = storage.contents(layout.CHECKPOINTS)
    found = manifest.committed_in(contents, lineage.forks(storage))
    entries = [_entry(storage, one, contents[one.name]) for one in found]
    if args.json:
        print(json.dumps(entries, indent=1))
    elif entries:
        print(table(_HEADER, [_row(entry) for entry in entries], right=(0, 1, 2, 3)))
    else:
        note(f"no checkpoints yet at {storage.url}", quiet=args.quiet)
    return 0


def _verify(storage: Storage, args: argparse.Namespace) -> int:
    found = manifest.damage(storage, _chosen(storage, args.step))
    if args.json:
        entries = [{"folder": one.folder, "step": one.step, "problems": problems} for one, problems in found.items()]
        print(json.dumps(entries, indent=1))
    else:
        for one, problems in found.items():
            state = paint("damaged", "red") if problems else paint("ok", "green")
            print("\n".join([f"{state}  {one.folder}", *(f"  {problem}" for problem in problems)]))
        if not found:
            note(f"no checkpoints yet at {storage.url}", quiet=args.quiet)
    return int(ExitCode.FAILED) if any(found.values()) else 0


def _digest(storage: Storage, args: argparse.Namespace) -> int:
    for one in _chosen(storage, args.step):
        try:
            digest = manifest.digest(storage, one.folder)
        except CheckpointError as error:
            note(f"passing over {one.folder}: {error}", quiet=args.quiet)
            continue
        if args.json:
            fields = {"step": digest.step, "weights": digest.weights, "state": digest.state, "folder": one.folder}
            print(json.dumps(fields, indent=1))
        else:
            print(f"step     {digest.step}\nweights  {digest.weights}\nstate    {digest.state}")
        return 0
    raise CheckpointError(f"there is no checkpoint at {storage.url} that is whole")


def _prune(storage: Storage, args: argparse.Namespace) -> int:
    policy = _policy(storage)
    if args.keep_last is not None:
        policy = dataclasses.replace(policy, keep_last=args.keep_last)
    writer = records.newest_writer(storage) or Writer(0)
    damaged: list[str] = []
    if args.damaged:  # before anything is chosen: what is damaged must not count as one of those that are kept
        found = manifest.damage(storage, manifest.committed(storage))
        damaged = [one.folder for one, problems in found.items() if problems]
    gone = Retention(storage, writer, policy).to_delete(damaged) + damaged
    if not args.dry_run:
        for folder in gone:
            retention.delete_checkpoint(storage, folder)
    if args.json:
        print(json.dumps({"deleted": gone, "dry_run": args.dry_run}, indent=1))
    else:
        print("".join(f"{'would delete' if args.dry_run else 'deleted'}  {folder}\n" for folder in gone), end="")
        if not gone:
            note("nothing to delete", quiet=args.quiet)
    return 0


def _add_prune_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--keep-last", type=at_least(1), metavar="N", help="how many to keep (default: as the run's spec says)"
    )
    parser.add_argument("--damaged", action="store_true", help="also verify all, and delete those that are damaged")
    parser.add_argument("--dry-run", action="store_true", help="say what would be deleted, and delete nothing")


def _chosen(storage: Storage, step: int | None) -> list[Committed]:
    """All checkpoints, the newest first, or those of a step. Raises: ConfigError if a step has none."""
    found = manifest.committed(storage)
    chosen = [one for one in found if step is None or one.step == step]
    if step is not None and not chosen:
        steps = ", ".join(str(at) for at in sorted({one.step for one in found})) or "none"
        raise ConfigError(f"there is no checkpoint of step {step} at {storage.url}; steps there: {steps}")
    return chosen


def _entry(storage: Storage, one: Committed, files: Mapping[str, int]) -> dict[str, Any]:
    """One checkpoint as `ls --json` shows it. `problem` is what can be told without reading the data."""
    fields: dict[str, Json] = {
        "folder": one.folder,
        "step": one.step,
        "attempt": one.writer.attempt,
        "restart": one.writer.restart,
        "problem": "found damaged by a restore" if manifest.DAMAGED in files else None,
    }
    try:
        content = manifest.read_manifest(storage, one.folder)
    except (CheckpointError, ConfigError) as error:
        return fields | {"problem": str(error)}
    try:
        manifest.check_sizes(one.folder, content.files, files)
    except CheckpointError as error:
        fields["problem"] = str(error)
    return fields | {
        "created_at": content.created_at,
        "bytes": content.size_bytes,
        "world_size": content.world_size,
        "samples": content.samples,
        "metrics": {
            name: value if abs(value) < float("inf") else str(value) for name, value in content.metrics.items()
        },
        "about": dict(content.about),
    }


def _row(entry: dict[str, Any]) -> tuple[str, ...]:
    metrics = "  ".join(f"{name} {quantities.number(value)}" for name, value in entry.get("metrics", {}).items())
    return (
        str(entry["step"]),
        quantities.age(entry["created_at"], time.time()) if "created_at" in entry else "-",
        quantities.size(entry["bytes"]) if "bytes" in entry else "-",
        str(entry.get("world_size", "-")),
        metrics or "-",
        paint("damaged", "red") if entry["problem"] else paint("ok", "green"),
        entry["folder"],
    )


def _policy(storage: Storage) -> Checkpoint:
    """What the newest attempt's spec says about keeping checkpoints, or the defaults for a run without a spec."""
    for number in reversed(records.attempt_numbers(storage)):
        record = records.read(storage, records.SpecRecord, f"attempts/{number:04d}/spec.json")
        if record is not None:
            return from_json(Checkpoint, record.spec.get("checkpoint") or {})
    return Checkpoint()


_ACTIONS: dict[str, tuple[Callable[[Storage, argparse.Namespace], int], str]] = {
    "ls": (_list, "list the checkpoints, newest first"),
    "verify": (_verify, "read every byte of all checkpoints, and say what is damaged; exit code 70 if anything is"),
    "digest": (_digest, "hash the content of the newest whole checkpoint, to compare runs"),
    "prune": (_prune, "delete checkpoints that the policy does not keep, and leftovers of saves that never ended"),
}
