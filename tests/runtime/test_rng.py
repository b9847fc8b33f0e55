"""Random number generators that come back exactly."""

import json
import random

import numpy as np
import torch

from torchrelay import rng
from torchrelay.checkpoint.state import decode, encode

CPU = torch.device("cpu")


def draw() -> tuple[float, float, list[float], list[float]]:
    return random.gauss(0, 1), random.random(), np.random.standard_normal(3).tolist(), torch.rand(3).tolist()


def test_all_generators_come_back_from_json_and_tensors():
    rng.seed_all(5)
    random.gauss(0, 1)  # keeps a second number in reserve, as does numpy's
    np.random.standard_normal(1)
    encoded = encode({"rng": rng.capture(CPU)}, "rank-00000/")
    expected = draw()
    rng.seed_all(6)
    assert draw() != expected
    state = decode(json.loads(json.dumps(encoded.json)), encoded.tensors, "here")
    rng.restore(state["rng"], CPU)
    assert draw() == expected


def test_untouched_generators_are_left_alone():
    untouched = rng.Untouched()
    torch.rand(1)
    state = rng.capture(CPU, untouched)
    assert state["python"] is None
    assert state["numpy"] is None
    before = random.getstate()
    rng.restore(state, CPU)
    assert random.getstate() == before
    random.random()
    assert rng.capture(CPU, untouched)["python"] is not None
    np.random.standard_normal(1)
    assert rng.capture(CPU, untouched)["numpy"] is not None


def test_seeds_of_ranks_and_steps_are_unrelated():
    seen = set()
    for seed, rank, step in [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (11, 0, 0), (1, 10, 0)]:
        rng.seed_all(seed, rank, step)
        seen.add(str(draw()))
    assert len(seen) == 6
