"""How fast the training is, from one log entry to the next."""

import resource
import time

import torch


class Meter:
    """Adds up what happened since the last `take`. Times are in seconds."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._began = self._since = time.monotonic()
        self._first_step = self._last_step = 0
        self._samples = 0
        self._data_wait_s = 0.0
        self._stall_s = self._waited_s = 0.0

    def restart(self, step: int) -> None:
        """Begin now, after `step` steps: what was before says nothing about the speed."""
        self._began = self._since = time.monotonic()
        self._first_step = self._last_step = step

    def add(self, samples: int, data_wait_s: float) -> None:
        """Count what one step took in."""
        self._samples += samples
        self._data_wait_s += data_wait_s

    def stall(self, seconds: float, waited_s: float = 0.0) -> None:
        """Count a time in which training stood still for a checkpoint, of which it waited for the one before."""
        self._stall_s += seconds
        self._waited_s += waited_s

    def eta_s(self, step: int, total: int) -> float | None:
        """Seconds from `step` to `total`, at the speed so far."""
        if step <= self._first_step:
            return None
        return (total - step) * (time.monotonic() - self._began) / (step - self._first_step)

    def take(self, step: int) -> dict[str, float]:
        """The means since the last call. The time of a step and the speed leave checkpoints out."""
        now, steps = time.monotonic(), max(1, step - self._last_step)
        busy = max(1e-9, now - self._since - self._stall_s)
        speed = {"step_s": busy / steps, "data_wait_s": self._data_wait_s / steps, "memory_bytes": self._memory()}
        if self._samples:
            speed["samples_per_s"] = self._samples / busy
        if self._stall_s:
            speed["checkpoint_stall_s"] = self._stall_s
        if self._waited_s:
            speed["checkpoint_wait_s"] = self._waited_s
        self._since, self._last_step = now, step
        self._samples, self._data_wait_s, self._stall_s, self._waited_s = 0, 0.0, 0.0, 0.0
        return speed

    def _memory(self) -> int:
        """The most bytes ever in use: of the GPU's memory, or of this process's without one."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_allocated(self._device)
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
