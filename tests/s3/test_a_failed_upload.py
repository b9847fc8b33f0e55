"""A save over S3 that fails in the middle, on torchrelay and on torch.distributed.checkpoint; see checkpoint-faults.md.

The test of the other side says what it does today. If it fails, it got better, and the table is to be changed.
"""

from typing import Any

import fsspec
import pytest
import torch
import torch.distributed.checkpoint as dcp
from alone import Alone

from torchrelay.checkpoint import CheckpointManager
from torchrelay.contract import layout, manifest
from torchrelay.contract.errors import StorageError
from torchrelay.contract.layout import Writer
from torchrelay.contract.object_connection import Connection
from torchrelay.contract.storage import open_storage
from torchrelay.contract.training import Checkpoint

try:
    from torch.distributed.checkpoint.fsspec_filesystem import FsspecReader, FsspecWriter
except ModuleNotFoundError:  # before torch 2.15
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

ELEMENTS = 400_000  # of each of two tensors: 3.2 MB
OPTIONS = {"part_bytes": 2**20}


def state(value: float) -> dict[str, torch.Tensor]:
    return {name: torch.full((ELEMENTS,), value) for name in ("a", "b")}


def test_a_failed_upload_leaves_the_checkpoint_before(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(s3_url, OPTIONS)
    own = CheckpointManager(storage, Writer(1), Alone(), Checkpoint(), {})
    own.save(1, {"model": state(1.0)}, {}, {})
    call = Connection.call

    def failing(self: Connection, doing: str, key: str, method: Any, *args: Any, **kwargs: Any) -> Any:
        if args == ("complete_multipart_upload",):
            raise StorageError("made up by the test")
        return call(self, doing, key, method, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "call", failing)
        with pytest.raises(StorageError, match="made up by the test"):
            own.save(2, {"model": state(2.0)}, {}, {})
    assert [one.step for one in manifest.committed(storage)] == [1]
    assert storage.list(layout.checkpoint_folder(2, Writer(1))) == []
    found = CheckpointManager(storage, Writer(2), Alone(), Checkpoint(), {}).restore()
    assert found is not None
    assert all(torch.equal(tensor, state(1.0)[name]) for name, tensor in found.shared["model"].items())


def test_what_killed_attempts_have_sent_is_dropped_after_a_commit(s3_url: str) -> None:
    """It is in no listing and is paid for. What a newer attempt sends is left alone, and so is another run's."""
    storage = open_storage(f"{s3_url}/run", OPTIONS)
    call = storage.connection.call  # type: ignore[attr-defined]
    killed = [layout.checkpoint_folder(7, Writer(number)) for number in (1, 3)]
    keys = [storage.folder(folder).url.removeprefix("s3://") + "/rank-00000.safetensors" for folder in killed]
    keys.append(keys[0].replace("/run/", "/run-2/"))
    bucket = keys[0].partition("/")[0]
    for key in keys:
        to = {"Bucket": bucket, "Key": key.removeprefix(f"{bucket}/")}
        upload = call("write", key, "call_s3", "create_multipart_upload", **to)["UploadId"]
        call("write", key, "call_s3", "upload_part", PartNumber=1, Body=b"x", UploadId=upload, **to)
    CheckpointManager(storage, Writer(2), Alone(), Checkpoint(), {}).save(8, {"model": state(1.0)}, {}, {})
    left = call("list", bucket, "call_s3", "list_multipart_uploads", Bucket=bucket)["Uploads"]
    assert sorted(f"{bucket}/{one['Key']}" for one in left) == sorted(keys[1:])


@pytest.mark.filterwarnings("ignore")  # of torch.distributed.checkpoint, without a process group
def test_a_failed_upload_there(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cleaning deletes first and then closes the stream, which uploads what it has: over the file of before."""
    folder = f"{s3_url}/theirs"
    dcp.save(state(1.0), storage_writer=FsspecWriter(folder))
    bucket = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    (name,) = (name for name in bucket.find(folder) if name.endswith(".distcp"))
    whole = bucket.size(name)
    write, written = dcp.filesystem._write_item, []

    def fails(*args: Any, **named: Any) -> Any:
        if written:
            raise OSError(5, "made up by the test")
        written.append(write(*args, **named))
        return written[0]

    with monkeypatch.context() as patch:
        patch.setattr(dcp.filesystem, "_write_item", fails)
        with pytest.raises(dcp.api.CheckpointException):
            dcp.save(state(2.0), storage_writer=FsspecWriter(folder))
    assert 0 < bucket.size(name) < whole  # published, although the save failed
    loaded = {"a": torch.zeros(ELEMENTS)}
    dcp.load(loaded, storage_reader=FsspecReader(folder))
    assert torch.equal(loaded["a"], state(2.0)["a"])  # a part of the failed save, without a word
    with pytest.raises(BaseException):  # noqa: B017, PT011  # the other part is gone, and the one of before too
        dcp.load({"b": torch.zeros(ELEMENTS)}, storage_reader=FsspecReader(folder))
