"""The code snapshot: what is in it, and that a hostile one stays within its folder."""

import io
import subprocess
import tarfile
from pathlib import Path

import pytest

from torchrelay.contract.errors import ConfigError
from torchrelay.contract.storage import open_storage
from torchrelay_launch.backends.kubernetes import code


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


def test_a_git_tree_as_git_sees_it(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".gitignore").write_text("data\n")
    (tmp_path / "data").write_text("large")
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "new file.py").write_text("")
    assert names(code.packed(tmp_path)) == [".gitignore", "pkg/new file.py"]


def test_a_plain_folder_without_caches(tmp_path: Path) -> None:
    for name in ("train.py", "__pycache__/train.pyc", "runs/x/run.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    assert names(code.packed(tmp_path)) == ["train.py"]


def test_links_become_what_they_lead_to(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "shared.py").write_text("print(3)")
    (work / "train.py").symlink_to(tmp_path / "shared.py")
    (work / "gone.py").symlink_to(tmp_path / "nothing")
    storage = open_storage(str(tmp_path / "run"))
    code.store(storage, "code/x.tar.gz", work)
    code.fetch(storage, "code/x.tar.gz", tmp_path / "pod")
    assert [path.name for path in (tmp_path / "pod").iterdir()] == ["train.py"]
    assert (tmp_path / "pod" / "train.py").read_text() == "print(3)"


def test_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(code, "LARGEST_BYTES", 2)
    (tmp_path / "train.py").write_text("abc")
    with pytest.raises(ConfigError, match=r"leave data out with \.gitignore"):
        code.packed(tmp_path)


def test_a_file_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret.key").write_text("x")

    def refuse(*_args: object, **_options: object) -> None:  # the tests may be root, who can read everything
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tarfile.TarFile, "add", refuse)
    with pytest.raises(ConfigError, match=r"cannot read .*secret\.key: Permission denied; .*\.gitignore"):
        code.packed(tmp_path)


def test_there_and_back(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text("print(1)")
    storage = open_storage(str(tmp_path / "run"))
    first, second, third = map(code.snapshot_file, (1, 2, 3))
    assert code.store(storage, first, work) == f"copied the code of {work}, 0.0 MiB"
    (work / "train.py").write_text("print(2)")
    code.store(storage, first, work)  # all attempts of a job run what its first one ran
    code.store(storage, second, work)
    elsewhere = tmp_path / "elsewhere"
    assert (
        code.store(storage, third, elsewhere)
        == f"goes on with the code of a0002.tar.gz: {elsewhere} is not on this machine"
    )
    for path, text in ((first, "print(1)"), (second, "print(2)"), (third, "print(2)")):
        code.fetch(storage, path, tmp_path / "pod")
        assert (tmp_path / "pod" / "train.py").read_text() == text


def test_no_folder_and_no_snapshot(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name the folder with --workdir DIR, or write code: live"):
        code.store(open_storage(str(tmp_path / "run")), code.snapshot_file(1), tmp_path / "elsewhere")


def test_none_and_damaged(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "run"))
    with pytest.raises(ConfigError, match="has no code snapshot"):
        code.fetch(storage, "code/x.tar.gz", tmp_path / "pod")
    storage.create("code/x.tar.gz", b"no archive")
    with pytest.raises(ConfigError, match="damaged"):
        code.fetch(storage, "code/x.tar.gz", tmp_path / "pod")


def test_programs_stay_programs(tmp_path: Path) -> None:
    (tmp_path / "work" / "bin").mkdir(parents=True)
    for name, mode in (("bin/tool", 0o755), ("notes", 0o444)):
        (tmp_path / "work" / name).write_text("")
        (tmp_path / "work" / name).chmod(mode)
    storage = open_storage(str(tmp_path / "run"))
    code.store(storage, "code/x.tar.gz", tmp_path / "work")
    code.fetch(storage, "code/x.tar.gz", tmp_path / "pod")
    modes = [(tmp_path / "pod" / name).stat().st_mode & 0o777 for name in ("bin/tool", "notes")]
    assert modes == [0o755, 0o644]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../evil", tarfile.REGTYPE),
        ("a/../../evil", tarfile.REGTYPE),
        ("{}/evil", tarfile.REGTYPE),
        ("link", tarfile.SYMTYPE),
        ("link", tarfile.LNKTYPE),
        ("pipe", tarfile.FIFOTYPE),
        ("folder", tarfile.DIRTYPE),
    ],
)
def test_what_is_no_file_within_the_folder_is_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    member = tarfile.TarInfo(name.format(tmp_path))
    member.type, member.linkname = kind, str(tmp_path)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        archive.addfile(member)
    storage = open_storage(str(tmp_path / "run"))
    storage.create("code/x.tar.gz", buffer.getvalue())
    with pytest.raises(ConfigError, match="damaged"):
        code.fetch(storage, "code/x.tar.gz", tmp_path / "pod")
    assert not (tmp_path / "evil").exists()
    assert list((tmp_path / "pod").iterdir()) == []
