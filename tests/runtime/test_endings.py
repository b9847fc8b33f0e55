"""What becomes of an exception: the record of the failure."""

import pytest
import torch.distributed as dist

from torchrelay.contract.errors import ConfigError, DivergedError, PeerLostError, StorageError, SupersededError
from torchrelay.endings import Ending, failure_of, is_peer_lost

ENDING = Ending(rank=3, world_size=4, node=1, step=7)


@pytest.mark.parametrize(
    ("error", "code", "retryable"),
    [
        (ConfigError("x"), 78, False),
        (StorageError("x"), 74, True),
        (SupersededError("x"), 76, False),
        (DivergedError("x"), 70, False),
        (PeerLostError("x"), 70, True),
        (ValueError("x"), 70, True),
        (KeyboardInterrupt(), 130, True),
        (SystemExit(5), 5, True),
        (SystemExit("text"), 1, True),
    ],
)
def test_codes(error, code, retryable):
    failure = failure_of(error, ENDING)
    assert (failure.exit_code, failure.retryable) == (code, retryable)
    assert (failure.rank, failure.node, failure.step) == (3, 1, 7)


def test_expected_errors_have_no_traceback():
    assert failure_of(ConfigError("what to mend"), ENDING).traceback == ""
    assert failure_of(ConfigError("what to mend"), ENDING).error == "what to mend"
    assert "ValueError" in failure_of(ValueError("x"), ENDING).traceback


@pytest.mark.parametrize(
    "text",
    [
        "[/x/gloo/transport/tcp/pair.cc:545] Read error [127.0.0.1]:1: Connection reset by peer. This is typically",
        "[../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.1]:20204",
        "NCCL error: remote process exited or there was a network error, NCCL version 2.30.7",
        "[Rank 0] Timed out waiting 1800000ms for recv operation to complete",
    ],
)
def test_broken_connections_are_a_lost_peer(text):
    assert is_peer_lost(RuntimeError(text))
    failure = failure_of(RuntimeError(text), ENDING)
    assert failure.peer_lost
    assert failure.error.startswith("lost contact with another rank: ")
    assert "typically" not in failure.error
    assert ".cc:" not in failure.error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("The size of tensor a (3) must match the size of tensor b (4)"),
        RuntimeError("CUDA out of memory"),
        ValueError("connection closed"),
        StorageError("cannot write: Connection reset by peer"),
    ],
)
def test_other_errors_are_not(error):
    assert not is_peer_lost(error)


def test_the_stores_errors_are_a_lost_peer():
    assert is_peer_lost(dist.DistStoreError("wait timeout"))
    assert is_peer_lost(dist.DistNetworkError("recvValue failed"))
