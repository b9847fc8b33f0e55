"""What is saved and restored for the user: any object with `state_dict` and `load_state_dict`."""

from typing import Any, Protocol

import torch
from torch.nn.parallel import DistributedDataParallel

from torchrelay.checkpoint import fits
from torchrelay.checkpoint.state import tensor_name
from torchrelay.contract.errors import CheckpointMismatchError, ConfigError, TorchrelayError

RESERVED = ("progress", "rng")


class Stateful(Protocol):
    """A model, optimizer, schedule, scaler, or anything of the user's own."""

    def state_dict(self) -> Any: ...

    def load_state_dict(self, state_dict: Any, /) -> Any: ...


class Tracked:
    """Objects by name. Their state must be the same on all ranks, as DistributedDataParallel keeps it."""

    def __init__(self) -> None:
        self._objects: dict[str, Stateful] = {}

    def add(self, objects: dict[str, Any]) -> None:
        """Raises: ConfigError for what cannot be tracked, or a name that is taken."""
        for name, value in objects.items():
            bare = unwrap(value)
            if not callable(getattr(bare, "state_dict", None)) or not callable(getattr(bare, "load_state_dict", None)):
                raise ConfigError(f"track({name}=...): {type(value).__name__} has no state_dict and load_state_dict")
            if name in RESERVED or name in self._objects:
                raise ConfigError(f"track({name}=...): the name is taken; choose another")
            self._objects[name] = bare

    def state(self) -> dict[str, Any]:
        """The state of each object, by name. Tensors are the objects' own, not copies."""
        return {name: value.state_dict() for name, value in self._objects.items()}

    def modules_state(self) -> dict[str, Any]:
        """As `state`, of the modules only: their tensors are there before training, and loading copies into them."""
        return {name: value.state_dict() for name, value in self._objects.items() if isinstance(value, torch.nn.Module)}

    def buffers(self) -> list[str]:
        """Names, as in a checkpoint, of the modules' buffers: DDP gives all ranks rank 0's before each step."""
        modules = {name: value for name, value in self._objects.items() if isinstance(value, torch.nn.Module)}
        return [tensor_name(name, buffer) for name, module in modules.items() for buffer, _ in module.named_buffers()]

    def load(self, state: dict[str, Any], where: str) -> None:
        """Give each object its state. Raises: CheckpointMismatchError, with the differences, if they do not fit."""
        fits.check_tracked([name for name in state if name not in RESERVED], self._objects, where)
        for name, value in self._objects.items():
            _load(name, value, state[name], where)


def unwrap(value: Any) -> Any:
    """The module inside DistributedDataParallel and torch.compile, so that names do not depend on either."""
    while True:
        if isinstance(value, DistributedDataParallel):
            value = value.module
        elif isinstance(value, torch.nn.Module) and isinstance(getattr(value, "_orig_mod", None), torch.nn.Module):
            value = value._orig_mod
        else:
            return value


def _load(name: str, value: Stateful, state: Any, where: str) -> None:
    if isinstance(value, torch.nn.Module):  # others, such as optimizers, have their full state only after a step
        fits.check_fits(fits.tensor_shapes({name: state}), fits.tensor_shapes({name: value.state_dict()}), where)
    try:
        value.load_state_dict(state)
        if isinstance(value, torch.optim.Optimizer):
            _own(value)
    except TorchrelayError:
        raise
    except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointMismatchError(f"{where}: the state of `{name}` does not fit: {error}") from error


def _own(optimizer: torch.optim.Optimizer) -> None:
    """Copy what an optimizer on the host took over as it is from memory that the ranks share.

    Otherwise the whole checkpoint would stay in memory for as long as it trains.
    """
    for state in optimizer.state.values():
        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.is_cpu and not value.untyped_storage().resizable():
                state[key] = value.clone()
