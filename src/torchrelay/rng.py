"""The random number generators of one rank, as tensors and JSON."""

import hashlib
import random
from typing import Any

import numpy as np
import torch


def seed_all(seed: int, rank: int = 0, step: int = 0) -> None:
    """Seed Python, numpy and torch (every device) from three numbers, each combination unrelated to the others."""
    digest = hashlib.blake2b(f"{seed}/{rank}/{step}".encode(), digest_size=16).digest()
    random.seed(digest)
    np.random.seed(int.from_bytes(digest[:4], "little"))
    torch.manual_seed(int.from_bytes(digest[8:], "little", signed=True))


class Untouched:
    """Which of Python's and numpy's generators nobody has used since.

    Unless they are seeded, both start with a state of their own in every process. Saving that would make the
    checkpoints of two equal runs differ, although neither ever drew from them.
    """

    def __init__(self) -> None:
        self._python, self._numpy = random.getstate(), _numpy()

    def python(self) -> bool:
        return random.getstate() == self._python

    def numpy(self) -> bool:
        now = _numpy()
        return torch.equal(now.pop("words"), self._numpy["words"]) and now == _without_words(self._numpy)


def capture(device: torch.device, untouched: Untouched | None = None) -> dict[str, Any]:
    """The state of all generators that this rank draws from. Tensors are on the CPU; None is for untouched ones."""
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": None if untouched is not None and untouched.python() else _python(),
        "numpy": None if untouched is not None and untouched.numpy() else _numpy(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def restore(state: dict[str, Any], device: torch.device) -> None:
    """Put all generators back to what `capture` saw. A GPU's state is left out where there is no GPU."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    python, legacy = state["python"], state["numpy"]
    if python is not None:
        random.setstate((python["version"], tuple(python["words"].tolist()), python["gauss"]))
    if legacy is not None:
        words = legacy["words"].numpy().astype(np.uint32)
        np.random.set_state((legacy["kind"], words, legacy["position"], legacy["has_gauss"], legacy["gauss"]))


def _python() -> dict[str, Any]:
    version, words, gauss = random.getstate()
    return {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss}


def _numpy() -> dict[str, Any]:
    state: Any = np.random.get_state(legacy=False)
    return {
        "kind": str(state["bit_generator"]),
        "words": torch.from_numpy(state["state"]["key"].astype(np.int64)),
        "position": int(state["state"]["pos"]),
        "has_gauss": int(state["has_gauss"]),
        "gauss": float(state["gauss"]),
    }


def _without_words(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key != "words"}
