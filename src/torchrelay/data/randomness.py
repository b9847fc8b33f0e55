"""Random numbers that depend on what they are for: on the sample, not on the process that happens to load it."""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

_MASK = (1 << 64) - 1


def mix(*parts: int) -> int:
    """One well-mixed 64-bit number from several (splitmix64 over each part in turn). Order matters."""
    state = 0
    for part in parts:
        state = (state ^ (part & _MASK)) + 0x9E3779B97F4A7C15 & _MASK
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 & _MASK
        state = (state ^ state >> 27) * 0x94D049BB133111EB & _MASK
        state ^= state >> 31
    return state


def seed_sample(seed: int, epoch: int, index: int) -> None:
    """Seed this process's CPU generators (torch, random, numpy's global one) for one sample of one epoch."""
    mixed = mix(seed, epoch, index)
    torch.default_generator.manual_seed(mixed)  # torch.manual_seed would also queue a seed for every GPU
    random.seed(mixed)
    np.random.seed(mixed & 0xFFFFFFFF)


@contextlib.contextmanager
def generators_kept(device: torch.device | None = None) -> Iterator[None]:
    """Put the random state of this process, and of a CUDA device, back afterwards."""
    cuda = device if device is not None and device.type == "cuda" else None
    cpu_state, python_state, numpy_state = torch.get_rng_state(), random.getstate(), np.random.get_state()
    cuda_state = torch.cuda.get_rng_state(cuda) if cuda is not None else None
    try:
        yield
    finally:
        torch.set_rng_state(cpu_state)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        if cuda is not None and cuda_state is not None:
            torch.cuda.set_rng_state(cuda_state, cuda)
