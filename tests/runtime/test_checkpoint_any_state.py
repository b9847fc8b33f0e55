"""Whatever tensors and values a state holds, and however they lie in memory: saved, and read back equal."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from some_saves import manager

from torchrelay.checkpoint.dtypes import dtype_of
from torchrelay.contract import manifest
from torchrelay.contract.safetensors_file import DTYPES
from torchrelay.contract.storage import LocalStorage

LAYOUTS = {
    "as it is": lambda base: base,
    "turned": lambda base: base.transpose(0, -1) if base.dim() else base,
    "every other": lambda base: base[..., ::2] if base.dim() else base,
    "a column": lambda base: base[..., :1] if base.dim() else base,
    "from the second on": lambda base: base[1:] if base.dim() else base,
    "repeated": lambda base: base.unsqueeze(0).expand(3, *base.shape),
    "one element": lambda base: base.reshape(-1)[-1] if base.numel() else base,
}


@st.composite
def families(draw: st.DrawFn) -> list[torch.Tensor]:
    """Some views of one storage: weights that are tied, and those that are a part of another."""
    name = draw(st.sampled_from(sorted(DTYPES)))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    base = torch.empty(shape, dtype=dtype_of(name))
    size = base.numel() * base.element_size()
    raw = bytes(itertools.islice(itertools.cycle(draw(st.binary(min_size=1, max_size=16))), size))
    raw = bytes(byte & 1 for byte in raw) if name == "BOOL" else raw
    if size:
        base.view(-1).view(torch.uint8).copy_(torch.tensor(list(raw), dtype=torch.uint8))
    kinds = draw(st.lists(st.sampled_from(sorted(LAYOUTS)), min_size=1, max_size=3))
    return [LAYOUTS[kind](base) for kind in kinds]


PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)


@st.composite
def states(draw: st.DrawFn) -> dict[str, Any]:
    tensors = [view for family in draw(st.lists(families(), max_size=4)) for view in family]
    nested: dict[str, Any] = {f"t{number}": tensor for number, tensor in enumerate(tensors)}
    below = draw(st.dictionaries(st.text(max_size=4) | st.integers(), st.lists(PLAIN, max_size=2), max_size=3))
    return {"model": nested, "more": {"plain": below, "again": [tuple(tensors), draw(PLAIN)]}}


def as_bytes(tensor: torch.Tensor) -> bytes:
    """The elements in order; NaNs and types that know no equality are told apart by their bits."""
    return bytes(tensor.contiguous().as_strided((tensor.numel(),), (1,)).view(torch.uint8).tolist())


def assert_equal(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert (found.dtype, found.shape, as_bytes(found)) == (expected.dtype, expected.shape, as_bytes(expected))
    elif isinstance(expected, dict):
        assert list(found) == list(expected)
        for key, value in expected.items():
            assert_equal(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_equal(one, other)
    else:
        assert found == expected


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@settings(max_examples=60)
@given(states())
def test_any_tensors_and_values_come_back_from_a_checkpoint(state: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        saved = manager(Path(folder)).save(1, state, {"own": state["more"]}, {})
        assert manifest.verify(LocalStorage(Path(folder)), saved.folder) == []
        found = manager(Path(folder)).restore()
        assert found is not None
        assert_equal(found.shared, state)
        assert_equal(found.private, {"own": state["more"]})
