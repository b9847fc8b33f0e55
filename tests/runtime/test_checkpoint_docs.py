"""The Python in docs/checkpoints.md works on a real checkpoint, and its description of the digest is the truth."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import xxhash
from alone import Alone
from safetensors.torch import load_file

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract import manifest
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def documented_checkpoint(tmp_path: Path) -> Path:
    model = {"fc.weight": torch.randn(3, 2), "fc.bias": torch.zeros(2)}
    state = {"model": model, "lr": 0.1, "at": (1, float("nan"))}
    saver = CheckpointManager(LocalStorage(tmp_path), Writer(1), Alone(), Checkpoint(), {"torch": torch.__version__})
    return tmp_path / saver.save(7, state, {"rng": torch.get_rng_state(), "n": 1}, {"loss": float("inf")}).folder


def test_there_are_examples() -> None:
    assert len(BLOCKS) == 2


@pytest.mark.parametrize("code", BLOCKS, ids=["reading", "verifying"])
def test_the_examples_run(code: str, documented_checkpoint: Path) -> None:
    command = [sys.executable, "-W", "ignore", "-c", code]
    ran = subprocess.run(command, cwd=documented_checkpoint, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_example_of_verifying_finds_damage(documented_checkpoint: Path) -> None:
    (documented_checkpoint / "state.json").write_bytes(b"{}")
    command = [sys.executable, "-W", "ignore", "-c", BLOCKS[1]]
    ran = subprocess.run(command, cwd=documented_checkpoint, capture_output=True, text=True, timeout=60, check=False)
    assert "AssertionError: state.json" in ran.stderr


def test_the_digest_by_hand(documented_checkpoint: Path) -> None:
    def canonical(value: object) -> bytes:
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    def line(*parts: object) -> bytes:
        return canonical(list(parts)) + b"\n"

    tensors = load_file(documented_checkpoint / "rank-00000.safetensors")
    names = {torch.float32: "F32", torch.uint8: "U8"}
    lines = {
        name: line(name, names[t.dtype], list(t.shape), xxhash.xxh3_128_hexdigest(t.numpy().tobytes()))
        for name, t in sorted(tensors.items())
    }
    private = [
        line(name, xxhash.xxh3_128_hexdigest(canonical(json.loads((documented_checkpoint / name).read_bytes()))))
        for name in ("state.json", "rank-00000.json")
    ]
    run, _, folder = str(documented_checkpoint).partition("/checkpoints/")
    found = manifest.digest(LocalStorage(Path(run)), f"checkpoints/{folder}")
    weights = b"".join(text for name, text in lines.items() if name.startswith("model/"))
    assert found.weights == xxhash.xxh3_128_hexdigest(weights)
    assert found.state == xxhash.xxh3_128_hexdigest(b"".join([*lines.values(), *private]))
    assert found.step == 7
