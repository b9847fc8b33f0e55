"""Which rank writes what: everything once, and about as much for each."""

from hypothesis import given
from hypothesis import strategies as st

from torchrelay.checkpoint.shares import SMALLEST_SPLIT_BYTES, Shape, Share, assign

MIB = 1 << 20
SHAPES = st.builds(Shape, st.integers(0, 30) | st.integers(0, 20 * MIB), st.sampled_from([1, 2, 4, 8, 16]))


@given(st.dictionaries(st.text(max_size=5), SHAPES, max_size=12), st.integers(1, 9), st.data())
def test_every_element_is_written_once_and_in_order(
    tensors: dict[str, Shape], world_size: int, data: st.DataObject
) -> None:
    from_rank_0 = data.draw(st.sets(st.sampled_from(sorted(tensors)))) if tensors else set()
    shares = assign(tensors, world_size, from_rank_0)
    assert len(shares) == world_size
    for name, shape in tensors.items():
        own = [(rank, share) for rank, one in enumerate(shares) for share in one if share.name == name]
        assert own
        assert [share.start for _, share in own] == [0, *(share.stop for _, share in own[:-1])]
        assert own[-1][1].stop == shape.elements
        assert name not in from_rank_0 or [rank for rank, _ in own] == [0]
        assert len(own) == 1 or all(share.start < share.stop for _, share in own)
        assert len(own) == 1 or shape.size_bytes >= SMALLEST_SPLIT_BYTES


@given(st.dictionaries(st.text(max_size=5), SHAPES, min_size=1, max_size=20), st.integers(1, 9))
def test_shares_are_balanced(tensors: dict[str, Shape], world_size: int) -> None:
    sizes = [
        sum((share.stop - share.start) * tensors[share.name].itemsize for share in one)
        for one in assign(tensors, world_size)
    ]
    fair = sum(shape.size_bytes for shape in tensors.values()) / world_size
    assert all(abs(size - fair) <= SMALLEST_SPLIT_BYTES for size in sizes)


def test_the_order_of_the_names_does_not_matter() -> None:
    tensors = {"b": Shape(10 * MIB, 4), "a": Shape(3, 4), "c": Shape(6 * MIB, 2)}
    assert assign(tensors, 3) == assign(dict(reversed(tensors.items())), 3)


def test_one_large_tensor_is_split_and_small_ones_stay_whole() -> None:
    assert assign({"w": Shape(4 * MIB, 4)}, 2) == [[Share("w", 0, 2 * MIB)], [Share("w", 2 * MIB, 4 * MIB)]]
    shares = assign({name: Shape(300, 4) for name in "abc"}, 2)
    assert [[share.name for share in one] for one in shares] in ([["a"], ["b", "c"]], [["a", "b"], ["c"]])


def test_rank_0_gets_less_of_the_rest_for_what_is_its_own() -> None:
    shares = assign({"own": Shape(8 * MIB, 1), "rest": Shape(24 * MIB, 1)}, 2, {"own"})
    assert shares == [[Share("own", 0, 8 * MIB), Share("rest", 0, 8 * MIB)], [Share("rest", 8 * MIB, 24 * MIB)]]
