"""What a restore fills where it is: only what has memory of its own, and is as it was saved."""

import torch

from torchrelay.checkpoint.places import places_of


def test_plain_tensors_with_memory_of_their_own_are_places() -> None:
    block = torch.zeros(100)
    tensors = {
        "own": torch.zeros(3, 2),
        "one": block[:10],
        "beside it": block[10:20],
        "over two": block[15:30],
        "inside": block[40:41],
        "around": block[30:60],
        "behind what is inside": block[50:52],
        "last": block[60:],
        "scalar": torch.tensor(1),
        "empty": torch.zeros(0, 3),
        "transposed": torch.zeros(3, 2).T,
        "conjugate": torch.zeros(2, dtype=torch.cfloat).conj(),
        "of no device": torch.zeros(2, device="meta"),
    }
    assert sorted(places_of(tensors)) == ["last", "one", "own", "scalar"]


def test_tied_weights_are_no_places() -> None:
    tied = torch.nn.Linear(4, 4)
    both = torch.nn.ModuleList([tied, tied])
    assert places_of(both.state_dict()) == {}
