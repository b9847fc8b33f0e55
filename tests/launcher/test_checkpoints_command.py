"""torchrelay checkpoints ls|verify|digest|prune, on checkpoints made by hand, in a process that has no torch."""

import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import xxhash

from torchrelay.contract import layout, manifest, manifest_format, records, retention, safetensors_file
from torchrelay.contract.layout import Writer
from torchrelay.contract.manifest import FileEntry, Manifest, Piece, TensorEntry
from torchrelay.contract.storage import LocalStorage
from torchrelay_launch.cli import main

RUN_ID = "digits-20261121-101500-a1b2"


@pytest.fixture
def run_storage(tmp_path: Path) -> LocalStorage:
    """A run with checkpoints of the steps 10 to 50, of which the spec keeps two."""
    storage = LocalStorage(tmp_path / "runs" / RUN_ID)
    storage.create(layout.RUN_RECORD, records.dump(records.RunRecord(RUN_ID, "digits", 1.7e9, "0.1.0")))
    spec = records.SpecRecord({"checkpoint": {"every": "10 steps", "keep_last": 2, "keep_best": None}})
    storage.create(layout.attempt_file(1, "spec"), records.dump(spec))
    for step in range(10, 60, 10):
        _commit(storage, step)
    return storage


def _commit(storage: LocalStorage, step: int, value: float = 1.0) -> str:
    writer = Writer(1)
    folder = layout.checkpoint_folder(step, writer)
    tensors = safetensors_file.header([("model/w", "F32", (1,))]) + struct.pack("<f", value)
    files = {"state.json": b"{}", "rank-00000.json": b"{}", "rank-00000.safetensors": tensors}
    for name, data in files.items():
        storage.create(f"{folder}/{name}", data)
    made = Manifest(
        step=step,
        writer=writer,
        world_size=1,
        created_at=1.7e9,
        files={name: FileEntry(len(data), xxhash.xxh3_128_hexdigest(data)) for name, data in files.items()},
        tensors={"model/w": TensorEntry("F32", (1,), "weights", (Piece("rank-00000.safetensors", "model/w", 0, 1),))},
        samples=step * 64,
        metrics={"val/loss": 1 / step, "odd": float("nan")},
    )
    storage.create(f"{folder}/manifest.json", manifest_format.dump(made))
    return folder


def damage(storage: LocalStorage, step: int) -> str:
    """Change a byte of the data. Returns the file's path below the run."""
    path = f"{layout.checkpoint_folder(step, Writer(1))}/rank-00000.safetensors"
    storage.replace(path, storage.read(path)[:-1] + b"!")
    return path


def command(capsys: pytest.CaptureFixture[str], *args: str) -> tuple[int, str, str]:
    code = main(["checkpoints", *args])
    out, err = capsys.readouterr()
    return code, out, err


def as_json(capsys: pytest.CaptureFixture[str], *args: str) -> Any:
    return json.loads(command(capsys, *args, "--json")[1])


def test_ls_shows_the_newest_first(run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = command(capsys, "ls", run_storage.url)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:4] == ["STEP", "AGE", "SIZE", "RANKS"]
    assert [line.split()[0] for line in lines[1:]] == ["50", "40", "30", "20", "10"]
    assert "val/loss 0.0200" in lines[1]
    assert all(" ok " in line for line in lines[1:])
    entry = as_json(capsys, "ls", run_storage.url)[0]
    assert (entry["step"], entry["world_size"], entry["samples"], entry["problem"]) == (50, 1, 3200, None)
    assert entry["metrics"] == {"val/loss": 0.02, "odd": "nan"}


def test_ls_shows_what_is_damaged_by_its_size(run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    run_storage.replace(f"{layout.checkpoint_folder(50, Writer(1))}/state.json", b"")
    run_storage.replace(f"{layout.checkpoint_folder(40, Writer(1))}/manifest.json", b"{}")
    code, out, _ = command(capsys, "ls", run_storage.url)
    assert code == 0
    assert ["damaged" in line for line in out.splitlines()[1:]] == [True, True, False, False, False]
    assert "has 0 bytes, expected 2" in as_json(capsys, "ls", run_storage.url)[0]["problem"]


def test_a_run_is_found_by_its_id(run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    root = run_storage.url.rpartition("/")[0]
    assert len(as_json(capsys, "ls", "digits", "--storage", root)) == 5


def test_verify_names_the_damaged_file(run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(capsys, "verify", run_storage.url)[0] == 0
    path = damage(run_storage, 30)
    code, out, _ = command(capsys, "verify", run_storage.url)
    assert code == 70
    assert [line.split()[0] for line in out.splitlines() if line[0] != " "] == ["ok", "ok", "damaged", "ok", "ok"]
    assert f"{path} is damaged" in out
    assert command(capsys, "verify", run_storage.url, "--step", "50")[0] == 0
    problems = as_json(capsys, "verify", run_storage.url, "--step", "30")[0]["problems"]
    assert len(problems) == 1


def test_verify_leaves_out_what_the_run_deletes_meanwhile(
    run_storage: LocalStorage, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading takes long, and a run that goes on deletes its oldest checkpoints."""
    verify = manifest.verify

    def slowly(storage: LocalStorage, folder: str) -> list[str]:
        retention.delete_checkpoint(storage, layout.checkpoint_folder(10, Writer(1)))
        return verify(storage, folder)

    monkeypatch.setattr(manifest, "verify", slowly)
    assert [entry["step"] for entry in as_json(capsys, "verify", run_storage.url)] == [50, 40, 30, 20]
    assert command(capsys, "verify", run_storage.url)[0] == 0


def test_digest_is_of_the_newest_whole_one(run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run_storage, 50)
    found = as_json(capsys, "digest", run_storage.url)
    assert found["step"] == 40
    assert {len(found["weights"]), len(found["state"])} == {32}
    assert as_json(capsys, "digest", run_storage.url, "--step", "10")["weights"] == found["weights"]
    code, out, err = command(capsys, "digest", run_storage.url)
    assert code == 0
    assert out.split() == ["step", "40", "weights", found["weights"], "state", found["state"]]
    assert "passing over checkpoints/step-000000050" in err


def test_a_digest_of_nothing_whole_is_an_error(run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run_storage, 20)
    code, out, err = command(capsys, "digest", run_storage.url, "--step", "20")
    assert (code, out) == (70, "")
    assert "no checkpoint" in err


@pytest.mark.parametrize("action", ["verify", "digest"])
def test_a_step_that_is_not_there_is_the_users_mistake(
    action: str, run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = command(capsys, action, run_storage.url, "--step", "15")
    assert code == 78
    assert "steps there: 10, 20, 30, 40, 50" in err


def test_prune_keeps_what_the_spec_says(run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]) -> None:
    run_storage.create(layout.restart_file(Writer(2)), b"{}")
    run_storage.create(f"{layout.checkpoint_folder(60, Writer(1))}/rank-00000.json", b"{}")
    dry = as_json(capsys, "prune", run_storage.url, "--dry-run")
    assert dry["dry_run"]
    assert len(run_storage.list("checkpoints")) == 6
    done = as_json(capsys, "prune", run_storage.url)
    assert done["deleted"] == dry["deleted"]
    assert [name[10:14] for name in run_storage.list("checkpoints")] == ["0040", "0050"]
    code, out, err = command(capsys, "prune", run_storage.url)
    assert (code, out, err) == (0, "", "nothing to delete\n")


def test_prune_deletes_the_damaged_only_when_told(
    run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(run_storage, 50)
    kept = as_json(capsys, "prune", run_storage.url, "--keep-last", "9")["deleted"]
    assert kept == []
    gone = as_json(capsys, "prune", run_storage.url, "--keep-last", "9", "--damaged")["deleted"]
    assert gone == [layout.checkpoint_folder(50, Writer(1))]
    assert len(run_storage.list("checkpoints")) == 4


def test_prune_does_not_count_what_it_finds_damaged(
    run_storage: LocalStorage, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else the newest, whose size is right, would be the one that is kept, and then go as damaged."""
    damage(run_storage, 50)
    damage(run_storage, 10)
    gone = as_json(capsys, "prune", run_storage.url, "--keep-last", "1", "--damaged")["deleted"]
    assert sorted(gone) == [layout.checkpoint_folder(step, Writer(1)) for step in (10, 20, 30, 50)]
    assert [entry["step"] for entry in as_json(capsys, "ls", run_storage.url)] == [40]


def test_a_run_without_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = LocalStorage(tmp_path / RUN_ID)
    storage.create(layout.RUN_RECORD, records.dump(records.RunRecord(RUN_ID, "digits", 1.7e9, "0.1.0")))
    for action in ("ls", "verify"):
        code, out, err = command(capsys, action, storage.url)
        assert (code, out) == (0, "")
        assert "no checkpoints yet" in err
        assert as_json(capsys, action, storage.url) == []


@pytest.mark.parametrize("args", [(), ("lst", "x"), ("ls",), ("digest", "x", "--step", "-1")])
def test_mistakes_in_the_command_line_are_configuration(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = command(capsys, *args)
    assert (code, out) == (78, "")
    assert "Traceback" not in err


def test_no_torch_is_needed(run_storage: LocalStorage) -> None:
    code = "import sys; sys.modules['torch'] = None; from torchrelay_launch.cli import main; sys.exit(main())"
    ran = subprocess.run(
        [sys.executable, "-c", code, "checkpoints", "digest", run_storage.url, "--json"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["step"] == 50
