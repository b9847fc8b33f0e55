"""Local disk, memory and S3 do what a dictionary does, whatever is done to them in whatever order."""

import secrets
import tempfile

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from torchrelay.contract.storage import open_storage

PLAIN = st.sampled_from(["a.json", "step-1/a", "step-1/deep/b", "step-1/deep/c", "step-10/a", "step-1.txt"])
GROWING = st.sampled_from(["n.log", "logs/n.log", "logs/n.log.1"])
FOLDER_NAMES = ["", "step-1", "step-1/deep", "step-10", "logs", "missing"]  # on disk a folder has a size of its own
FOLDERS = st.sampled_from(FOLDER_NAMES)
ANYTHING = st.one_of(PLAIN, GROWING, FOLDERS.filter(bool))
CONTENT = st.binary(max_size=3) | st.binary(min_size=20, max_size=40)
OPTIONS = {"flush_s": 1000, "part_bytes": 7, "parallel": 2}  # small objects are then read in parts, as large ones are


def machine(bucket: str) -> type[RuleBasedStateMachine]:
    """The state machine, on this bucket."""

    class Storages(RuleBasedStateMachine):
        def __init__(self) -> None:
            super().__init__()
            self.temporary = tempfile.TemporaryDirectory()
            name = secrets.token_hex(6)
            self.storages = [
                open_storage(self.temporary.name),
                open_storage(f"memory://{name}", OPTIONS),
                open_storage(f"s3://{bucket}/{name}", OPTIONS),
            ]
            self.model: dict[str, bytes] = {}

        def teardown(self) -> None:
            for storage in self.storages:
                storage.delete("")
            self.temporary.cleanup()

        @rule(path=PLAIN, content=CONTENT)
        def create(self, path, content):
            for storage in self.storages:
                if path in self.model:
                    with pytest.raises(FileExistsError):
                        storage.create(path, content)
                else:
                    storage.create(path, content[:3], content[3:])
            self.model.setdefault(path, content)

        @rule(path=PLAIN, content=CONTENT)
        def replace(self, path, content):
            for storage in self.storages:
                storage.replace(path, content)
            self.model[path] = content

        @rule(path=GROWING, content=CONTENT.filter(bool), flush=st.booleans())
        def append(self, path, content, flush):
            for storage in self.storages:
                storage.append(path, content)
                if flush:
                    storage.flush()
            self.model[path] = self.model.get(path, b"") + content

        @rule(path=ANYTHING)
        def delete(self, path):
            for storage in self.storages:
                storage.delete(path)
            self.model = {p: c for p, c in self.model.items() if p != path and not p.startswith(f"{path}/")}

        @precondition(lambda self: self.model)
        @rule(offset=st.integers(0, 42), size=st.none() | st.integers(0, 42))
        def read(self, offset, size):
            end = None if size is None else offset + size
            for path, content in self.model.items():
                for storage in self.storages:
                    storage.flush()
                    assert storage.size(path) == len(content)
                    assert storage.read(path) == content
                    assert storage.read_from(path, offset, size) == content[offset:end]
                    assert storage.read_from(path, 1, size) == content[1:][:size]
                    with storage.open(path) as file:
                        file.seek(offset)
                        assert file.read(-1 if size is None else size) == content[offset:end]

        @rule(path=ANYTHING)
        def read_missing(self, path):
            if path in self.model:
                return
            for storage in self.storages[1:] if path in FOLDER_NAMES else self.storages:
                storage.flush()
                assert storage.size(path) is None
                with pytest.raises(FileNotFoundError):
                    storage.read(path)
                with pytest.raises(FileNotFoundError):
                    storage.read_from(path, 0)

        @rule(path=FOLDERS)
        def list_folder(self, path):
            prefix = f"{path}/" if path else ""
            expected = sorted({p[len(prefix) :].partition("/")[0] for p in self.model if p.startswith(prefix)})
            for storage in self.storages:
                storage.flush()
                names = storage.list(path)
                if storage is self.storages[0]:  # on disk an empty folder stays
                    names = [n for n in names if n in expected or not storage.path(f"{prefix}{n}").is_dir()]
                assert names == expected

        @rule(path=FOLDERS.filter(lambda path: path != "logs"))
        def contents(self, path):
            prefix = f"{path}/" if path else ""
            expected = {}
            for name, content in self.model.items():
                folder, _, rest = name.removeprefix(prefix).partition("/")
                if name.startswith(prefix) and rest and "/" not in rest:
                    expected.setdefault(folder, {})[rest] = len(content)
            expected.pop("logs", None)  # what grows
            for storage in self.storages:
                found = storage.contents(path)
                assert {folder: sizes for folder, sizes in found.items() if sizes and folder != "logs"} == expected

    return Storages


def test_all_storages_behave_as_a_dictionary(s3_bucket):
    run_state_machine_as_test(
        machine(s3_bucket),
        settings=settings(max_examples=25, stateful_step_count=20, suppress_health_check=list(HealthCheck)),
    )
