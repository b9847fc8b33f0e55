"""Whether a checkpoint's state fits what is tracked, and saying where it does not."""

from collections.abc import Iterable, Mapping
from typing import Any

from torchrelay.checkpoint.state import encode
from torchrelay.contract.errors import CheckpointMismatchError

_SHOWN = 6

Shapes = Mapping[str, tuple[int, ...]]


def tensor_shapes(state: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of a nested state: {"model": state_dict} -> {"model/fc.weight": (10, 128)}.

    Raises: ConfigError for a state that cannot be saved.
    """
    return {name: tuple(tensor.shape) for name, tensor in encode(state).tensors.items()}


def check_fits(saved: Shapes, tracked: Shapes, folder: str = "") -> None:
    """Compare the tensors of a checkpoint with those of what is tracked, names and shapes.

    Raises: CheckpointMismatchError with what is missing, unexpected, or of another shape.
    """
    lines = [
        f"{name}: saved {saved[name]}, {_owner(name)} has {tracked[name]}"
        for name in sorted(set(saved) & set(tracked))
        if saved[name] != tracked[name]
    ]
    missing, unexpected = set(tracked) - set(saved), set(saved) - set(tracked)
    lines += [f"{name}: not in the checkpoint{_nearest(name, unexpected)}" for name in sorted(missing)]
    lines += [f"{name}: only in the checkpoint{_nearest(name, missing)}" for name in sorted(unexpected)]
    if lines:
        raise CheckpointMismatchError(_text("holds another model's state", lines, folder))


def check_tracked(saved: Iterable[str], tracked: Iterable[str], folder: str = "") -> None:
    """Compare the names of the objects in a checkpoint with those that are tracked.

    Raises: CheckpointMismatchError.
    """
    missing, unexpected = set(tracked) - set(saved), set(saved) - set(tracked)
    lines = [f"{name}: tracked, but not in the checkpoint{_nearest(name, unexpected)}" for name in sorted(missing)]
    lines += [f"{name}: in the checkpoint, but not tracked{_nearest(name, missing)}" for name in sorted(unexpected)]
    if lines:
        raise CheckpointMismatchError(_text("was saved with other objects tracked", lines, folder))


def check_of_a_run(shared: Mapping[str, Any], private: Mapping[str, Any] | None, folder: str) -> None:
    """See that a `Run` saved this, and not a script's own CheckpointManager. Raises: CheckpointMismatchError."""
    progress = shared.get("progress")
    known = isinstance(progress, dict) and {"samples", "evaluated_step", "best"} <= progress.keys()
    if not known or (private is not None and "rng" not in private):
        raise CheckpointMismatchError(
            f"the checkpoint {folder} was not saved by torchrelay.Run: it does not say how far the run was; read it "
            "with the CheckpointManager that saved it, or start a new run"
        )


def _text(what: str, lines: list[str], folder: str) -> str:
    more = [f"... and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
    listed = "\n  ".join(lines[:_SHOWN] + more)
    hint = "go on with the spec and the code that saved it, or start a new run"
    return f"the checkpoint {folder + ' ' if folder else ''}{what}:\n  {listed}\n{hint}"


def _owner(name: str) -> str:
    return name.partition("/")[0]


def _nearest(name: str, others: set[str]) -> str:
    import difflib

    near = difflib.get_close_matches(name, sorted(others)[:1000], n=1, cutoff=0.7)
    return f" (there is {near[0]})" if near else ""
