"""Precision, determinism, and moving batches to a device."""

import contextlib
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch.amp.grad_scaler import GradScaler

from torchrelay.contract.errors import ConfigError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """How forwards compute: fp32, or autocast in bf16 or fp16. Weights and optimizer state stay fp32."""

    name: str
    device: torch.device

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of a forward."""
        dtype = _DTYPES.get(self.name)
        return torch.autocast(self.device.type, dtype) if dtype is not None else contextlib.nullcontext()

    def scaler(self) -> GradScaler:
        """Scales the loss so that fp16's small gradients do not vanish; does nothing in other precisions."""
        enabled = self.name == "fp16"
        if enabled:  # a first step that overflows is left out; the schedule goes by steps all the same
            warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")
        return GradScaler(self.device.type, enabled=enabled)


def use_deterministic_kernels(device: torch.device) -> None:
    """Have torch compute the same bits every time, and refuse what it can't."""
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS is first used
        torch.backends.cudnn.benchmark = False
        torch.backends.cudnn.deterministic = True
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # costs time, and only helps to find bugs
    torch.use_deterministic_algorithms(True)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Turn torch's refusal of a kernel without a deterministic form into an error that says what to set."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        if "deterministic" not in text or "torch.use_deterministic_algorithms" not in text:
            raise
        what = text.partition(".")[0].partition(",")[0]
        raise ConfigError(
            f"{what}; train.deterministic: false allows it, and then a resume on this device is not bit for bit exact"
        ) from error


def to_device(batch: Any, device: torch.device) -> Any:
    """A batch with all its tensors on the device; lists, tuples and dicts are looked into."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (list, tuple)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
