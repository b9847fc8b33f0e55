"""Nested states to JSON and tensors, and back: everything that can be saved comes back equal, the rest is refused."""

import contextlib
import json
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterator
from enum import IntEnum
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.checkpoint import staging
from torchrelay.checkpoint.dtypes import dtype_name, dtype_of, writable_bytes
from torchrelay.checkpoint.staging import Staging
from torchrelay.checkpoint.state import decode, encode, tensor_name
from torchrelay.contract.errors import CheckpointError, ConfigError
from torchrelay.contract.safetensors_file import DTYPES

SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
KEYS = st.text() | st.integers() | st.none() | st.floats(allow_nan=False)
STATES = st.recursive(
    SCALARS | st.just(torch.arange(6).reshape(2, 3)),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(KEYS, inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$", "a/b", "a", "%", "rank", "__metadata__"]), inner)
    ),
    max_leaves=20,
)


def there_and_back(state: dict[str, Any], prefix: str = "") -> Any:
    encoded = encode(state, prefix)
    plain = json.loads(json.dumps(encoded.json, allow_nan=False))
    return decode(plain, encoded.tensors, "state")


def assert_same(found: Any, expected: Any) -> None:
    assert type(found) is type(expected)
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert [(type(key), key) for key in found] == [(type(key), key) for key in expected]
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float) and math.isnan(expected):
        assert math.isnan(found)
    else:
        assert found == expected
        assert not isinstance(expected, float) or math.copysign(1, found) == math.copysign(1, expected)


@given(st.dictionaries(st.text(), STATES, max_size=4))
def test_any_state_comes_back_equal(state: dict[str, Any]) -> None:
    assert_same(there_and_back(state), state)


@given(st.dictionaries(st.text(), STATES, max_size=4))
def test_names_of_tensors_are_unique_and_fit_for_a_safetensors_header(state: dict[str, Any]) -> None:
    names = list(encode(state).tensors) + list(encode(state, "rank/00000/").tensors)
    assert len(set(names)) == len(names)
    for name in names:
        assert name.encode().decode() == name
        assert name != "__metadata__"
        assert "@" not in name
    assert not any(name.startswith("rank/") for name in encode(state).tensors)


def test_a_module_and_its_optimizer_come_back_with_their_versions() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    optimizer = torch.optim.Adam(module.parameters(), betas=(0.8, 0.9))
    module(torch.randn(4, 3)).sum().backward()
    optimizer.step()
    state = {"net": module.state_dict(), "optimizer": optimizer.state_dict()}
    found = there_and_back(state)
    assert_same(found["optimizer"], state["optimizer"])
    assert found["net"]._metadata == module.state_dict()._metadata
    assert encode(state).weights == {f"net/{name}" for name in module.state_dict()}
    assert encode(state, "rank/00000/").weights == set()


def test_the_state_of_every_usual_schedule_can_be_saved() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedulers = torch.optim.lr_scheduler
    made: list[Any] = [
        schedulers.MultiStepLR(optimizer, [3, 3, 5]),
        schedulers.CosineAnnealingLR(optimizer, 10),
        schedulers.OneCycleLR(optimizer, 0.1, 10),
        schedulers.LambdaLR(optimizer, lambda step: 0.9**step),
        schedulers.ReduceLROnPlateau(optimizer),
        schedulers.SequentialLR(
            optimizer, [schedulers.ConstantLR(optimizer), schedulers.ExponentialLR(optimizer, 0.9)], [4]
        ),
    ]
    for schedule in made:
        state = {"schedule": schedule.state_dict()}
        found = there_and_back(state)
        assert found == state
        schedule.load_state_dict(found["schedule"])
    assert type(there_and_back({"m": Counter([3, 3, 5])})["m"]) is Counter


def test_the_names_of_tensors_are_their_paths() -> None:
    tensor = torch.zeros(1)
    state = {"model": {"fc.weight": tensor}, "optimizer": {"state": {0: {"exp_avg": tensor}}}, "rank": {"x": tensor}}
    names = ["model/fc.weight", "optimizer/state/0/exp_avg", "%72ank/x"]
    assert list(encode(state).tensors) == names
    paths = [("model", "fc.weight"), ("optimizer", "state", 0, "exp_avg"), ("rank", "x")]
    assert [tensor_name(*path) for path in paths] == names
    assert list(encode({"rng": tensor}, "rank/00003/").tensors) == ["rank/00003/rng"]


class Colour(IntEnum):
    RED = 1


def _looping() -> list[Any]:
    loop: list[Any] = []
    loop.append(loop)
    return loop


REFUSED: dict[str, tuple[Any, str]] = {
    "a function": ({"state": {0: {"hook": lambda: None}}}, r"^`x\.state\[0\]\['hook'\]`: a function cannot be saved"),
    "a class": ({"cls": int}, r"`x\.cls`: an object of type type cannot"),
    "an object": ([object()], r"`x\[0\]`: an object of type object cannot"),
    "bytes": ({"a": (1, b"x")}, r"`x\.a\[1\]`: an object of type bytes cannot"),
    "a set": ({1}, r"`x`: an object of type set cannot"),
    "an enum": (Colour.RED, r"`x`: an object of type .*Colour cannot"),
    "a key": ({(1, 2): 3}, r"`x`: a key of type tuple cannot be saved: \(1, 2\)"),
    "a complex number": (1j, r"type complex cannot"),
    "a loop": (_looping(), r"nested deeper than 50 levels, or contains itself"),
    "a sparse tensor": (torch.eye(2).to_sparse(), r"`x`: a sparse_coo tensor cannot"),
    "a meta tensor": (torch.empty(2, device="meta"), r"meta device"),
    "a 4-bit tensor": (torch.empty(2, dtype=torch.uint8).view(torch.uint4), r"a tensor of dtype torch\.uint4 cannot"),
    "a packed float4 tensor": (torch.empty(2, dtype=torch.uint8).view(torch.float4_e2m1fn_x2), r"float4_e2m1fn_x2"),
    "a tensor of another class": (torch.zeros(1).as_subclass(type("Mine", (torch.Tensor,), {})), r"class .*Mine"),
    "a parameter of another class": (
        torch.nn.Parameter(torch.zeros(1).as_subclass(type("Mine", (torch.Tensor,), {}))),
        r"class .*Mine",
    ),
    "a lazy parameter": (torch.nn.LazyLinear(2).weight, r"class .*UninitializedParameter|has not run yet"),
}


@pytest.mark.parametrize(("value", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_saved_is_refused_with_its_path(value: Any, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        encode({"x": value})


def test_dicts_of_other_kinds_come_back_as_dicts() -> None:
    kinds: list[Any] = [OrderedDict(a=1), defaultdict(list, a=1)]
    assert all(type(there_and_back({"x": one})["x"]) is dict for one in kinds)


HOSTILE: dict[str, Any] = {
    "an unknown tag": {"$": "pickle", "data": "gASV"},
    "a tag that is no text": {"$": ["tensor"]},
    "a tensor that is not there": {"$": "tensor", "name": "nowhere"},
    "a tensor without a name": {"$": "tensor"},
    "a tensor with a list as name": {"$": "tensor", "name": ["w"]},
    "a tuple of text": {"$": "tuple", "items": "abc"},
    "a dict with a list as key": {"$": "dict", "items": [[[1], 2]]},
    "a dict of triples": {"$": "dict", "items": [[1, 2, 3]]},
    "a number that is none": {"$": "int", "hex": "0xzz"},
    "a float that is none": {"$": "float", "value": "1e400"},
    "a counter of texts": {"$": "counter", "of": "abc"},
    "metadata that is no dict": {"$": "state_dict", "of": {}, "metadata": [1]},
}


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_hostile_json_is_refused(value: Any) -> None:
    with pytest.raises(CheckpointError, match="here"):
        decode({"x": [value]}, {"w": torch.zeros(1)}, "here")


def test_deep_json_is_refused() -> None:
    value: Any = 1
    for _ in range(400):
        value = [value]
    with pytest.raises(CheckpointError, match="too deep"):
        decode(value, {}, "here")


def test_every_dtype_has_the_name_and_size_that_the_format_says() -> None:
    for name, stored in DTYPES.items():
        assert dtype_name(dtype_of(name)) == name
        assert dtype_of(name).itemsize == stored.itemsize


@pytest.mark.filterwarnings("ignore:ComplexHalf")
@given(st.sampled_from(sorted(DTYPES)), st.lists(st.integers(0, 5), max_size=3), st.data())
def test_bytes_of_any_part_of_any_tensor(name: str, shape: list[int], data: st.DataObject) -> None:
    count, itemsize = math.prod(shape), DTYPES[name].itemsize
    raw = data.draw(st.binary(min_size=count * itemsize, max_size=count * itemsize))
    raw = bytes(byte & 1 for byte in raw) if name == "BOOL" else raw
    tensor = torch.empty(shape, dtype=dtype_of(name))
    writable_bytes(tensor)[:] = raw
    start, stop = sorted((data.draw(st.integers(0, count)), data.draw(st.integers(0, count))))
    assert bytes(Staging().fill([(tensor, start, stop)])) == raw[start * itemsize : stop * itemsize]


def test_bytes_of_tensors_that_do_not_lie_in_order() -> None:
    base = torch.arange(12.0).reshape(3, 4)
    views = (base.T, base[:, 1:3], base[::2], base[1], base.expand(2, 3, 4), base[0, 0], base[:1, 0], base[2:, 1:2])
    for view in views:
        assert bytes(Staging().fill([(view, 0, view.numel())])) == view.contiguous().numpy().tobytes()
    conjugate = torch.tensor([1 + 2j, 3 - 4j]).conj()
    assert bytes(Staging().fill([(conjugate, 0, 2)])) == conjugate.resolve_conj().numpy().tobytes()
    assert bytes(Staging().fill([(conjugate.imag, 0, 2)])) == conjugate.imag.resolve_neg().numpy().tobytes()


def test_memory_that_cannot_be_had_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    memory, given = Staging(), torch.empty

    def little(size: int, **options: Any) -> torch.Tensor:
        if size > 8:
            raise RuntimeError("can't allocate memory")
        return given(size, **options)

    tensor = torch.arange(4.0)
    monkeypatch.setattr(torch, "empty", little)
    with pytest.raises(CheckpointError, match="16 bytes in each rank could not be had"):
        memory.fill([(tensor, 0, 4)])
    assert bytes(memory.fill([(tensor, 0, 2)])) == tensor[:2].numpy().tobytes()


def test_memory_is_pinned_by_the_ranks_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every thread begins with GPU 0: there each rank would take some hundred MB for a context that nobody needs."""
    now, pinned = [0], []

    @contextlib.contextmanager
    def device(wanted: torch.device) -> Iterator[None]:
        now[0] = wanted.index
        yield
        now[0] = 0

    monkeypatch.setattr(torch.cuda, "device", device)
    monkeypatch.setattr(staging, "_pin", lambda buffer: pinned.append((now[0], buffer.numel())))
    memory = Staging()
    memory.prepare(10, torch.device("cuda", 3))
    memory._wait()
    assert pinned == [(3, 10)]
