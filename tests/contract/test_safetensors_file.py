"""The safetensors container: what we write the library reads, and nothing hostile gets through."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import deserialize

from torchrelay.contract import safetensors_file
from torchrelay.contract.errors import CheckpointError


def file_of(header: object, data: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def parse(file: bytes) -> dict[str, safetensors_file.Slot]:
    size = safetensors_file.header_size(file[:8], len(file), "f")
    return safetensors_file.parse_header(file[8 : 8 + size], len(file), "f")


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_the_library_reads_what_we_write() -> None:
    head = safetensors_file.header([("a/b", "I64", (1, 2)), ("scalar", "F32", ()), ("empty", "U8", (0, 3))])
    data = bytes(range(20))
    found = dict(deserialize(head + data))
    assert found["a/b"]["shape"] == [1, 2]
    assert bytes(found["a/b"]["data"]) == data[:16]
    assert bytes(found["scalar"]["data"]) == data[16:]
    assert found["empty"]["shape"] == [0, 3]
    assert len(head) % 8 == 0


@given(
    st.lists(
        st.tuples(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda k: k != "__metadata__"),
            st.sampled_from(["F32", "BF16", "BOOL", "I64"]),
            st.lists(st.integers(0, 4), max_size=3).map(tuple),
        ),
        unique_by=lambda slot: slot[0],
    )
)
def test_parsing_gives_back_the_slots(slots: list[tuple[str, str, tuple[int, ...]]]) -> None:
    head = safetensors_file.header(slots)
    size = int.from_bytes(head[:8], "little") + 8
    total = size + sum(_bytes(stored, shape) for _, stored, shape in slots)
    found = safetensors_file.parse_header(head[8:], total, "f")
    assert {key: (slot.stored, slot.shape) for key, slot in found.items()} == {k: (d, s) for k, d, s in slots}


def _bytes(stored: str, shape: tuple[int, ...]) -> int:
    count = {"F32": 4, "BF16": 2, "BOOL": 1, "I64": 8}[stored]
    for size in shape:
        count *= size
    return count


HOSTILE = {
    "an overlap": file_of({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
    "a gap": file_of({"a": entry(offsets=(4, 12))}, bytes(12)),
    "more data than tensors": file_of({"a": entry()}, bytes(9)),
    "less data than tensors": file_of({"a": entry()}, bytes(7)),
    "negative offsets": file_of({"a": entry(offsets=(-8, 0))}),
    "a huge shape": file_of({"a": entry(shape=(2**62, 2**62))}),
    "a huge shape without elements": file_of({"a": entry(shape=(0, 2**62, 2**62), offsets=(0, 0))}),
    "a negative shape": file_of({"a": entry(shape=(-1, -2))}, bytes(8)),
    "a shape of text": file_of({"a": entry(shape="22")}, bytes(8)),
    "a shape of booleans": file_of({"a": entry(shape=(True, 2))}, bytes(8)),
    "an unknown dtype": file_of({"a": entry(dtype="F33")}, bytes(8)),
    "a list as dtype": file_of({"a": entry(dtype=[])}, bytes(8)),
    "an extra field": file_of({"a": {**entry(), "code": "x"}}, bytes(8)),
    "a duplicate key": file_of(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(8)),
    "deep nesting": file_of(b"[" * 100_000),
    "no object": file_of([]),
    "no JSON": file_of(b"{"),
    "a header larger than the file": file_of({}, length=2**40),
    "a header larger than any": file_of({}, length=2**64 - 1),
    "three bytes": b"abc",
}


@pytest.mark.parametrize("file", HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused(file: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"^f"):
        parse(file)
