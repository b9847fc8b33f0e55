"""Several ranks saving and restoring together, as threads on one store, and once as real processes."""

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from torchrelay.checkpoint import CheckpointManager, Restored, tensor_name
from torchrelay.contract import layout, manifest
from torchrelay.contract.errors import CheckpointError, ConfigError, StorageError, SupersededError, TorchrelayError
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint

TIMEOUT_S = 30.0


@dataclass
class Peer:
    """One of several ranks."""

    rank: int
    world_size: int
    store: Any


def together(world_size: int, work: Callable[[Peer], Any]) -> list[Any]:
    """Do `work` on each rank at the same time; what each returned or raised. Every thread must end."""
    store = dist.HashStore()
    results: list[Any] = [None] * world_size

    def one(rank: int) -> None:
        try:
            results[rank] = work(Peer(rank, world_size, dist.PrefixStore("gang", store)))
        except BaseException as error:  # noqa: BLE001  # handed to the test
            results[rank] = error

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(world_size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
        assert not thread.is_alive(), "a rank hangs"
    return results


def manager(root: Path, peer: Peer, writer: Writer | None = None, timeout_s: float = TIMEOUT_S) -> CheckpointManager:
    return CheckpointManager(LocalStorage(root), writer or Writer(1), peer, Checkpoint(), {}, timeout_s)


def shared() -> dict[str, Any]:
    big = torch.arange(3_000_000, dtype=torch.float32)
    return {"model": {"big": big, "small": torch.arange(6.0).reshape(2, 3)}, "step": 5}


def private(rank: int) -> dict[str, Any]:
    return {"rng": torch.full((3 + rank,), rank), "rank": rank}


def save(root: Path, world_size: int, writer: Writer | None = None, step: int = 5) -> list[Any]:
    return together(
        world_size, lambda peer: manager(root, peer, writer).save(step, shared(), private(peer.rank), {"loss": 1.0})
    )


def restore(root: Path, world_size: int, writer: Writer | None = None) -> list[Restored]:
    found = together(world_size, lambda peer: manager(root, peer, writer or Writer(9)).restore())
    for one in found:
        assert isinstance(one, Restored), one
    return found


@pytest.mark.parametrize(("saved_by", "restored_by"), [(1, 2), (2, 2), (2, 1), (3, 2), (2, 3)])
def test_a_state_comes_back_at_any_world_size(tmp_path: Path, saved_by: int, restored_by: int) -> None:
    saved = save(tmp_path, saved_by)
    assert {one.folder for one in saved} == {layout.checkpoint_folder(5, Writer(1))}
    assert len({one.bytes for one in saved}) == 1
    for rank, one in enumerate(restore(tmp_path, restored_by)):
        assert (one.step, one.world_size, one.metrics) == (5, saved_by, {"loss": 1.0})
        for name, tensor in shared()["model"].items():
            assert torch.equal(one.shared["model"][name], tensor)
        if rank < saved_by:
            assert one.private is not None
            assert one.private["rank"] == rank
            assert torch.equal(one.private["rng"], private(rank)["rng"])
        else:
            assert one.private is None


def test_the_ranks_share_the_work_and_the_weights_have_one_digest(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    folders = [save(tmp_path, size, Writer(size))[0].folder for size in (1, 2, 3)]
    assert len({manifest.digest(storage, folder).weights for folder in folders}) == 1
    sizes = [(tmp_path / folders[2] / manifest.rank_file(rank, "safetensors")).stat().st_size for rank in range(3)]
    assert max(sizes) - min(sizes) < 2000
    pieces = manifest.read_manifest(storage, folders[2]).tensors["model/big"].pieces
    assert [piece.file for piece in pieces] == [manifest.rank_file(rank, "safetensors") for rank in range(3)]


def test_tensors_that_differ_between_ranks_are_taken_from_rank_0(tmp_path: Path) -> None:
    names = [f"b{index}" for index in range(8)]

    def work(peer: Peer) -> Any:
        state = {"model": {name: torch.full((100,), peer.rank) for name in names}}
        own = [tensor_name("model", name) for name in names[::2]]
        return manager(tmp_path, peer).save(1, state, {}, {}, from_rank_0=own)

    together(2, work)
    found = restore(tmp_path, 1)[0].shared["model"]
    assert {name: int(found[name][0]) for name in names[::2]} == dict.fromkeys(names[::2], 0)
    assert 1 in {int(found[name][0]) for name in names[1::2]}  # rank 1 had its share of the others


class FullDisk(LocalStorage):
    def create(self, path: str, *chunks: Any, **options: Any) -> None:
        raise StorageError(f"cannot write {path}: No space left on device")


def test_a_rank_that_cannot_write_fails_the_save_on_all_and_training_can_go_on(tmp_path: Path) -> None:
    save(tmp_path, 3, step=1)

    def work(peer: Peer) -> Any:
        own = manager(tmp_path, peer, Writer(2))
        whole = own._storage
        own._storage = FullDisk(tmp_path) if peer.rank == 2 else whole
        try:
            own.save(2, shared(), private(peer.rank), {})
        except StorageError as error:
            failed = str(error)
        own._storage = whole
        return failed, own.save(3, shared(), private(peer.rank), {}).step

    results = together(3, work)
    assert {step for _, step in results} == {3}, results
    texts = {text for text, _ in results}
    assert len(texts) == 1
    assert texts.pop().startswith("rank 2: cannot write checkpoints/step-000000002-a0002-r00/rank-00002.safetensors")
    assert [one.step for one in manifest.committed(LocalStorage(tmp_path))] == [3, 1]
    assert len(LocalStorage(tmp_path).list("checkpoints")) == 2  # the failed save left nothing


def test_a_superseded_gang_stops_on_all_ranks(tmp_path: Path) -> None:
    LocalStorage(tmp_path).create(layout.restart_file(Writer(2)), b"{}")
    results = save(tmp_path, 2)
    assert [type(one) for one in results] == [SupersededError, SupersededError]
    assert manifest.committed(LocalStorage(tmp_path)) == []


def test_ranks_with_different_states_are_told_apart(tmp_path: Path) -> None:
    results = together(
        2, lambda peer: manager(tmp_path, peer).save(1, {"model": {"w": torch.zeros(3 + peer.rank)}}, {}, {})
    )
    assert [type(one) for one in results] == [ConfigError, ConfigError]
    assert "rank 1 tracks other tensors than rank 0" in str(results[0])
    assert LocalStorage(tmp_path).list(layout.checkpoint_folder(1, Writer(1))) == []


def test_an_unexpected_error_of_one_rank_reaches_all(tmp_path: Path) -> None:
    class Odd(dict[str, Any]):
        def items(self) -> Any:
            raise ZeroDivisionError("odd")

    results = together(2, lambda peer: manager(tmp_path, peer).save(1, Odd() if peer.rank == 1 else {}, {}, {}))
    assert [type(one) for one in results] == [TorchrelayError, ZeroDivisionError]
    assert str(results[0]) == "rank 1: ZeroDivisionError: odd"


def test_a_rank_that_does_not_report_is_named_and_its_late_files_are_harmless(tmp_path: Path) -> None:
    given_up = threading.Event()

    def work(peer: Peer) -> Any:
        own = manager(tmp_path, peer, timeout_s=2.0)
        if peer.rank == 1:
            assert given_up.wait(TIMEOUT_S)
        try:
            return own.save(1, shared(), {}, {})
        finally:
            given_up.set()

    results = together(3, work)
    for one in results:
        assert isinstance(one, StorageError)
        assert "rank 1 did not report on a checkpoint within 2 s" in str(one)
    storage = LocalStorage(tmp_path)
    assert manifest.committed(storage) == []
    assert storage.list(layout.checkpoint_folder(1, Writer(1))) == []


def test_rank_0_is_waited_for_however_long_it_writes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If others gave up before, they would take a save for failed that it commits, and never agree again."""

    def work(peer: Peer) -> Any:
        own = manager(tmp_path, peer, timeout_s=0.2 if peer.rank else TIMEOUT_S)
        if peer.rank == 0:
            time.sleep(1.0)
        first = own.save(1, shared(), {}, {})
        return first, own.save(2, shared(), {}, {})

    caplog.set_level(logging.WARNING)
    results = together(2, work)
    assert [one.folder for one in results[0]] == [one.folder for one in results[1]]
    assert "rank 0 has not said for 0.2 s what becomes of a checkpoint; waiting on" in caplog.text


@pytest.mark.parametrize("file", ["rank-00001.json", "rank-00002.json", "rank-00002.safetensors", "state.json"])
def test_damage_is_agreed_on_whoever_reads_the_file(
    tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 3, Writer(1), step=1)
    newest = save(tmp_path, 3, Writer(2), step=2)[0].folder
    path = tmp_path / newest / file
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    caplog.set_level(logging.WARNING)
    assert [one.step for one in restore(tmp_path, 2)] == [1, 1]
    assert file in caplog.text
    assert newest in caplog.text


def test_an_error_while_damage_is_marked_reaches_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    newest = tmp_path / save(tmp_path, 2)[0].folder / "state.json"
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")

    def create(*_given: Any) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(LocalStorage, "create", create)
    results = together(2, lambda peer: manager(tmp_path, peer).restore())
    assert [type(one) for one in results] == [ZeroDivisionError, TorchrelayError]


def test_no_checkpoint_and_no_such_step_are_agreed_on(tmp_path: Path) -> None:
    assert together(2, lambda peer: manager(tmp_path, peer).restore()) == [None, None]
    results = together(2, lambda peer: manager(tmp_path, peer).restore(7))
    assert [type(one) for one in results] == [CheckpointError, CheckpointError]


def test_the_store_does_not_fill_up(tmp_path: Path) -> None:
    store = dist.HashStore()
    counts = []

    def one(rank: int) -> None:
        own = manager(tmp_path, Peer(rank, 2, store))
        for step in range(1, 6):
            own.save(step, {}, {}, {})
            if rank == 0:
                counts.append(store.num_keys())

    threads = [threading.Thread(target=one, args=(rank,), daemon=True) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(TIMEOUT_S)
    assert len(counts) == 5
    assert max(counts) <= 4


PROCESS = """
import sys, torch
from datetime import timedelta
from pathlib import Path
import torch.distributed as dist
from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract.layout import Writer
from torchrelay.contract.storage import LocalStorage
from torchrelay.contract.training import Checkpoint

class Peer:
    rank, world_size = int(sys.argv[2]), 2
    store = dist.TCPStore("127.0.0.1", int(sys.argv[3]), is_master=False, timeout=timedelta(seconds=30))

own = CheckpointManager(LocalStorage(Path(sys.argv[1])), Writer(1), Peer(), Checkpoint(), {}, 30.0)
state = {"model": {"w": torch.arange(3_000_000.0)}}
for step in (1, 2, 3):
    own.save(step, state, {"rank": Peer.rank}, {})
found = own.restore()
assert torch.equal(found.shared["model"]["w"], state["model"]["w"])
assert found.private == {"rank": Peer.rank}
print(found.step)
"""


def test_processes_on_a_tcp_store_save_and_restore_together(tmp_path: Path) -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    script = tmp_path / "rank.py"
    script.write_text(PROCESS)
    command = [sys.executable, str(script), str(tmp_path / "run")]
    ranks = [
        subprocess.Popen([*command, str(rank), str(server.port)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    try:
        for rank in ranks:
            out, err = rank.communicate(timeout=240)
            assert (rank.returncode, out) == (0, b"3\n"), err.decode()
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()


def test_a_store_that_is_gone_is_a_lost_peer(tmp_path: Path) -> None:
    server = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=30))
    client = dist.TCPStore("127.0.0.1", server.port, is_master=False, timeout=timedelta(seconds=30))
    own = manager(tmp_path, Peer(1, 2, client))
    threading.Timer(0.5, lambda holder: holder.clear(), ([server],)).start()
    del server
    with pytest.raises(TorchrelayError) as raised:
        own.save(1, {}, {}, {})
    assert type(raised.value).__name__ == "PeerLostError"
