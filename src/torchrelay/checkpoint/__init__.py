"""Checkpoints: a run's state as files that are committed whole, verified when read, and free of pickle."""

from torchrelay.checkpoint.fits import check_fits, check_tracked, tensor_shapes
from torchrelay.checkpoint.manager import CheckpointManager, Saved
from torchrelay.checkpoint.pending import Pending
from torchrelay.checkpoint.restoring import Restored
from torchrelay.checkpoint.state import tensor_name

__all__ = [
    "CheckpointManager",
    "Pending",
    "Restored",
    "Saved",
    "check_fits",
    "check_tracked",
    "tensor_name",
    "tensor_shapes",
]
