"""Checkpoints as files, without torch: a checkpoint made by hand, damaged in every way, and hostile manifests."""

import dataclasses
import itertools
import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from torchrelay.contract import layout, manifest, manifest_format, safetensors_file, strict_json
from torchrelay.contract.errors import CheckpointError, ConfigError
from torchrelay.contract.layout import Writer, checkpoint_folder
from torchrelay.contract.manifest import FileEntry, Manifest, Piece, TensorEntry
from torchrelay.contract.storage import LocalStorage

FIRST_WRITER = Writer(1)
VALUES = [float(value) for value in range(10)]


def make(
    root: Path, step: int = 100, writer: Writer = FIRST_WRITER, cuts: tuple[int, ...] = (4,), **changes: Any
) -> str:
    """A checkpoint with one tensor of weights, cut into pieces in a file each, and one private tensor. Its folder."""
    folder = root / checkpoint_folder(step, writer)
    folder.mkdir(parents=True)
    bounds = [0, *cuts, len(VALUES)]
    files: dict[str, bytes] = {"state.json": b'{"b": {"$":"tensor","name":"model/w"}, "a": 1.5}'}
    pieces = []
    for rank, (start, stop) in enumerate(itertools.pairwise(bounds)):
        file, key = f"rank-{rank:05d}.safetensors", f"model/w@{start}-{stop}"
        slots = [(key, "F32", (stop - start,))] + ([("rank/00000/seed", "I64", ())] if rank == 0 else [])
        data = struct.pack(f"<{stop - start}f", *VALUES[start:stop]) + (struct.pack("<q", 7) if rank == 0 else b"")
        files[file] = safetensors_file.header(slots) + data
        files[f"rank-{rank:05d}.json"] = b'{"n":%d}' % rank
        pieces.append(Piece(file, key, start, stop))
    for name, content in files.items():
        (folder / name).write_bytes(content)
    made = Manifest(
        step=step,
        writer=writer,
        world_size=len(bounds) - 1,
        created_at=1.7e9,
        files={name: FileEntry(len(data), xxhash.xxh3_128_hexdigest(data)) for name, data in files.items()},
        tensors={
            "model/w": TensorEntry("F32", (2, 5), "weights", tuple(pieces)),
            "rank/00000/seed": TensorEntry(
                "I64", (), "state", (Piece("rank-00000.safetensors", "rank/00000/seed", 0, 1),)
            ),
        },
        samples=6400,
        metrics={"val/loss": 0.5, "bad": float("nan"), "worse": float("inf")},
        about={"torch": "2.14"},
    )
    (folder / "manifest.json").write_bytes(manifest_format.dump(dataclasses.replace(made, **changes)))
    return checkpoint_folder(step, writer)


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    read = manifest.read_manifest(storage, make(tmp_path))
    assert (read.step, read.writer, read.world_size, read.samples) == (100, Writer(1), 2, 6400)
    assert read.about == {"torch": "2.14"}
    assert str(dict(read.metrics)) == "{'bad': nan, 'val/loss': 0.5, 'worse': inf}"
    assert read.tensors["model/w"].shape == (2, 5)
    assert manifest_format.parse(manifest_format.dump(read), "m").tensors == read.tensors


def test_a_whole_checkpoint_has_no_problems(tmp_path: Path) -> None:
    assert manifest.verify(LocalStorage(tmp_path), make(tmp_path)) == []


def test_every_flipped_byte_is_found(tmp_path: Path) -> None:
    storage, folder = LocalStorage(tmp_path), make(tmp_path)
    for file in sorted((tmp_path / folder).iterdir()):
        whole = file.read_bytes()
        for at in range(len(whole)):
            file.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
            problems = manifest.verify(storage, folder)
            assert len(problems) == 1, f"{file.name} byte {at}"
            assert file.name in problems[0]
        file.write_bytes(whole)
    assert manifest.verify(storage, folder) == []


def test_every_truncated_longer_or_missing_file_is_found(tmp_path: Path) -> None:
    storage, folder = LocalStorage(tmp_path), make(tmp_path)
    files = manifest.read_manifest(storage, folder).files
    for file in sorted((tmp_path / folder).iterdir()):
        whole = file.read_bytes()
        for content in (b"", whole[:-1], whole[: len(whole) // 2], whole + b"\0", whole * 2):
            file.write_bytes(content)
            assert len(manifest.verify(storage, folder)) == 1
            if file.name != layout.MANIFEST:
                with pytest.raises(CheckpointError, match=file.name):
                    manifest.check_sizes(folder, files, storage.contents("checkpoints")[Path(folder).name])
        file.unlink()
        assert "missing" in manifest.verify(storage, folder)[0]
        file.write_bytes(whole)
    assert manifest.verify(storage, folder) == []


def test_swapped_files_are_found(tmp_path: Path) -> None:
    storage, folder = LocalStorage(tmp_path), make(tmp_path, cuts=(5,))
    first, second = (tmp_path / folder / f"rank-0000{rank}.json" for rank in (0, 1))
    first_bytes = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(first_bytes)
    assert len(manifest.verify(storage, folder)) == 2


def test_a_manifest_of_another_checkpoint_is_found(tmp_path: Path) -> None:
    storage, older, newer = LocalStorage(tmp_path), make(tmp_path), make(tmp_path, step=200)
    (tmp_path / newer / "manifest.json").write_bytes((tmp_path / older / "manifest.json").read_bytes())
    assert "says that it is step 100 of a0001-r00" in manifest.verify(storage, newer)[0]


def test_committed_lists_only_folders_with_a_manifest_the_newest_writer_first(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    assert manifest.committed(storage) == []
    assert manifest.newest_committed(storage) is None
    make(tmp_path, step=100)
    make(tmp_path, step=300)
    make(tmp_path, step=200, writer=Writer(1, 1))
    make(tmp_path, step=150, writer=Writer(2))
    (tmp_path / make(tmp_path, step=400) / "manifest.json").unlink()
    (tmp_path / "checkpoints" / "other").mkdir()
    assert [one.step for one in manifest.committed(storage)] == [150, 200, 300, 100]


def test_the_newest_good_one_passes_over_the_damaged(tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    good, bad = make(tmp_path, step=100), make(tmp_path, step=200)
    (tmp_path / bad / "state.json").write_bytes(b"{}")
    newest = manifest.newest_good(storage)
    assert newest is not None
    assert newest.folder == good


def test_the_digest_of_weights_does_not_depend_on_the_split_or_the_writer(tmp_path: Path) -> None:
    folders = [make(tmp_path, writer=Writer(n), cuts=cuts) for n, cuts in enumerate([(4,), (), (1, 2, 9)], 1)]
    storage = LocalStorage(tmp_path)
    digests = [manifest.digest(storage, folder) for folder in folders]
    assert len({one.weights for one in digests}) == 1
    assert len({one.state for one in digests}) == 3  # other world sizes have other private states
    again = manifest.digest(storage, make(tmp_path, writer=Writer(9), created_at=1.8e9, metrics={}))
    assert again == digests[0]


def test_the_digest_is_what_the_docs_say(tmp_path: Path) -> None:
    tensor = xxhash.xxh3_128_hexdigest(struct.pack("<10f", *VALUES))
    line = b'["model/w","F32",[2,5],"%s"]\n' % tensor.encode()
    found = manifest.digest(LocalStorage(tmp_path), make(tmp_path))
    assert found.weights == xxhash.xxh3_128_hexdigest(line)


def test_a_damaged_checkpoint_has_no_digest(tmp_path: Path) -> None:
    folder = make(tmp_path)
    (tmp_path / folder / "state.json").unlink()
    with pytest.raises(CheckpointError, match=r"state\.json is missing"):
        manifest.digest(LocalStorage(tmp_path), folder)


def signed(fields: dict[str, Any]) -> bytes:
    """A manifest with a checksum that holds: whoever wrote it meant it."""
    fields.pop("checksum", None)
    fields["checksum"] = xxhash.xxh3_128_hexdigest(strict_json.canonical(fields))
    return strict_json.canonical(fields) + b"\n"


def set_at(*path: Any, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(fields: Any) -> None:
        for part in path[:-1]:
            fields = fields[part]
        fields[path[-1]] = to

    return change


W = ("tensors", "model/w")
FIRST, SECOND = "rank-00000.safetensors", "rank-00001.safetensors"
ENTRY = {"size": 1, "xxh3_128": "0" * 32}
HOSTILE: dict[str, Callable[[dict[str, Any]], None]] = {
    "a path that climbs out": set_at("files", "../../etc/passwd", to=ENTRY),
    "an absolute path": set_at("files", "/etc/passwd", to=ENTRY),
    "a folder": set_at("files", "a/b", to=ENTRY),
    "a hidden file": set_at("files", ".x", to=ENTRY),
    "the manifest itself": set_at("files", "manifest.json", to=ENTRY),
    "a name with a NUL": set_at("files", "a\0b", to=ENTRY),
    "a name with a newline": set_at("files", "a\n", to=ENTRY),
    "a negative size": set_at("files", FIRST, "size", to=-1),
    "a boolean as size": set_at("files", FIRST, "size", to=True),
    "a size beyond int64": set_at("files", FIRST, "size", to=2**70),
    "a short checksum": set_at("files", FIRST, "xxh3_128", to="00"),
    "an absurd world size": set_at("world_size", to=10**15),
    "no ranks": set_at("world_size", to=0),
    "a rank that is missing": set_at("world_size", to=3),
    "an absurd shape": set_at(*W, "shape", to=[2**40, 2**40]),
    "a shape that does not match the pieces": set_at(*W, "shape", to=[2, 6]),
    "a tensor larger than its file": lambda fields: fields["tensors"].update(
        {"big": {"dtype": "F64", "shape": [2**40], "kind": "state", "pieces": [[FIRST, "big", 0, 2**40]]}}
    ),
    "an unknown dtype": set_at(*W, "dtype", to="PICKLE"),
    "a dtype that is no text": set_at(*W, "dtype", to=["F32"]),
    "an unknown kind": set_at(*W, "kind", to="code"),
    "a kind that is no text": set_at(*W, "kind", to={}),
    "overlapping pieces": set_at(*W, "pieces", to=[[FIRST, "a", 0, 6], [SECOND, "b", 4, 10]]),
    "a gap between pieces": set_at(*W, "pieces", to=[[FIRST, "a", 0, 4], [SECOND, "b", 5, 10]]),
    "pieces that end early": set_at(*W, "pieces", to=[[FIRST, "a", 0, 9]]),
    "pieces that run backwards": set_at(*W, "pieces", to=[[FIRST, "a", 0, 12], [SECOND, "b", 12, 10]]),
    "an empty piece too many": set_at(*W, "pieces", to=[[FIRST, "a", 0, 0], [SECOND, "b", 0, 10]]),
    "no pieces": set_at(*W, "pieces", to=[]),
    "pieces of a file that is not there": set_at(*W, "pieces", to=[["x.safetensors", "a", 0, 10]]),
    "pieces of a file that holds no tensors": set_at(*W, "pieces", to=[["state.json", "a", 0, 10]]),
    "pieces that climb out": set_at(*W, "pieces", to=[["../x.safetensors", "a", 0, 10]]),
    "one place used by two tensors": set_at(
        "tensors", "x", to={"dtype": "I64", "shape": [], "kind": "state", "pieces": [[FIRST, "rank/00000/seed", 0, 1]]}
    ),
    "a tensor of a rank that is not there": lambda fields: fields["tensors"].update(
        {"rank/00009/seed": fields["tensors"].pop("rank/00000/seed")}
    ),
    "an unknown field": set_at("code", to="import os"),
    "tensors as a list": set_at("tensors", to=[]),
    "a time without end": set_at("created_at", to="inf"),
    "a time that is none": set_at("created_at", to="nan"),
    "a time beyond all calendars": set_at("created_at", to=1e300),
    "a time before all": set_at("created_at", to=-1.0),
    "metrics of text": set_at("metrics", "x", to="1e3"),
    "a step of text": set_at("step", to="100"),
    "a format before the first": set_at("version", to=0),
    "a format of text": set_at("version", to="2"),
    "a boolean as format": set_at("version", to=True),
    "another format": set_at("format", to="torch"),
    "state.json left out": lambda fields: fields["files"].pop("state.json"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_hostile_manifests_are_refused(change: Callable[[dict[str, Any]], None], tmp_path: Path) -> None:
    storage, folder = LocalStorage(tmp_path), make(tmp_path)
    path = tmp_path / folder / "manifest.json"
    fields = json.loads(path.read_bytes())
    path.write_bytes(signed(json.loads(path.read_bytes())))
    manifest.read_manifest(storage, folder)  # the unchanged one passes: it is the change that is refused
    change(fields)
    path.write_bytes(signed(fields))
    with pytest.raises(CheckpointError):
        manifest.read_manifest(storage, folder)
    assert len(manifest.verify(storage, folder)) == 1


def test_a_newer_format_is_no_damage(tmp_path: Path) -> None:
    storage, folder = LocalStorage(tmp_path), make(tmp_path)
    path = tmp_path / folder / "manifest.json"
    newer = signed(json.loads(path.read_bytes()) | {"version": 2, "of a later release": []})
    path.write_bytes(newer)
    with pytest.raises(ConfigError, match="newer torchrelay wrote it, in format 2, and this one reads 1"):
        manifest.read_manifest(storage, folder)
    path.write_bytes(newer.replace(b'"step":100', b'"step":101'))
    with pytest.raises(CheckpointError, match="checksum"):
        manifest.read_manifest(storage, folder)


@pytest.mark.parametrize(
    "data",
    [b"", b"null", b"[]", b"{}", b"[" * 200_000, b'{"a":' * 200_000, b"\xff\xfe", b"1" * 5000, b'{"version":NaN}'],
    ids=["empty", "null", "list", "object", "deep list", "deep object", "no UTF-8", "a huge number", "NaN"],
)
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        manifest_format.parse(data, "m")


def test_duplicate_keys_are_refused(tmp_path: Path) -> None:
    data = (tmp_path / make(tmp_path) / "manifest.json").read_bytes()
    with pytest.raises(CheckpointError, match="twice"):
        manifest_format.parse(data.replace(b'"step":100', b'"step":1,"step":100'), "m")


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_as_a_checkpoint_error(data: bytes) -> None:
    with pytest.raises(CheckpointError):
        manifest_format.parse(data, "m")


def test_a_file_whose_header_disagrees_with_the_manifest_is_found(tmp_path: Path) -> None:
    storage, folder = LocalStorage(tmp_path), make(tmp_path)
    path = tmp_path / folder / "manifest.json"
    fields = json.loads(path.read_bytes())
    fields["tensors"]["model/w"]["dtype"] = "I32"
    path.write_bytes(signed(fields))
    assert "expected I32" in manifest.verify(storage, folder)[0]


def test_reading_checkpoints_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; import torchrelay.contract.manifest, torchrelay.contract.retention"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
