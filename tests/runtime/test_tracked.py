"""What is done with a restored state, whose tensors may lie in memory that is lent."""

import mmap

import torch

from torchrelay.tracked import Tracked


def test_an_optimizer_lets_go_of_the_memory_that_it_was_restored_from():
    weights = torch.ones(8)
    optimizer = torch.optim.Adam([weights], lr=0.1)
    weights.grad = torch.ones(8)
    optimizer.step()
    momentum = optimizer.state[weights]["exp_avg"].clone()
    lent = torch.frombuffer(mmap.mmap(-1, 4096), dtype=torch.float32, count=8).copy_(momentum)
    state = optimizer.state_dict()
    state["state"][0] = {**state["state"][0], "exp_avg": lent}
    tracked = Tracked()
    tracked.add({"optimizer": optimizer})
    tracked.load({"optimizer": state}, "the checkpoint")
    restored = optimizer.state[weights]["exp_avg"]
    assert torch.equal(restored, momentum)
    assert restored.untyped_storage().data_ptr() != lent.untyped_storage().data_ptr()
