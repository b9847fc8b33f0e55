"""Files, documents, keys and types."""

import os
from pathlib import Path

import pytest

import torchrelay_launch.spec.tree
from torchrelay.contract.errors import ConfigError
from torchrelay.contract.exit_codes import ExitCode
from torchrelay.contract.settings import to_json
from torchrelay.contract.units import Duration, Interval, NodeCount, Size
from torchrelay_launch.spec.reader import SpecErrors, load_resolved, read_spec

JOBS = sorted((Path(__file__).parents[2] / "jobs").glob("*.yaml"))
SCRIPT = b"name: job\nscript: train.py\n"


def errors_of(path: Path, data: bytes) -> SpecErrors:
    path.write_bytes(data)
    with pytest.raises(SpecErrors) as caught:
        read_spec(str(path))
    return caught.value


@pytest.mark.parametrize("path", JOBS, ids=lambda path: path.name)
def test_the_jobs_of_the_project_are_good(path: Path) -> None:
    loaded = read_spec(str(path))
    assert loaded.source_text == path.read_text()
    assert load_resolved(to_json(loaded.job)) == loaded.job


def test_values_and_where_they_are_written(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "name: job\nmodule: pkg.train\nargs:\n- --lr\n- '0.1'\n"
        "resources: {nodes: 2..8, memory: 4GiB, time_limit: 1h30m}\ncheckpoint: {every: 200 steps or 5m}\n"
        "slurm: {extra: {gres: [1, 2.5, x, null, true]}}\n"
    )
    loaded = read_spec(str(path))
    job = loaded.job
    assert (job.name, job.module, job.args) == ("job", "pkg.train", ["--lr", "0.1"])
    assert job.resources.nodes == NodeCount(2, 8)
    assert job.resources.memory == Size(4 * 2**30)
    assert job.resources.time_limit == Duration(5400)
    assert job.checkpoint.every == Interval(200, 300.0)
    assert job.slurm.extra == {"gres": [1, 2.5, "x", None, True]}
    assert loaded.sources["name"] == f"{path}:1:7"
    assert loaded.sources["args.1"] == f"{path}:5:3"
    assert loaded.sources["resources.memory"] == f"{path}:6:34"
    assert loaded.sources["slurm.extra.gres.1"] == f"{path}:8:27"
    assert loaded.files == (str(path),)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the spec is empty"),
        (b"# nothing\n", "the spec is empty"),
        (b"---\n", "the spec is empty"),
        (b"- a\n", "expected a mapping of keys to values, not a list"),
        (b"hello\n", "expected a mapping of keys to values, not text"),
        (SCRIPT + b"---\nname: b\n", "a second document begins"),
        (SCRIPT + b"env:\n\tA: b\n", "a tab, which YAML does not take for indentation"),
        (SCRIPT + b"storage: \xff\n", "not UTF-8: byte 0xff"),
        (b"\x7fELF\0\0", "a binary file"),
        (SCRIPT.decode().encode("utf-16"), "written in UTF-16"),
        (b"#" * (2**20 + 1), "larger than 1 MiB"),
        (SCRIPT + b"storage: \x01\n", "a control character"),
        (SCRIPT + b"storage: !!python/name:os.system x\n", "the tag !!python/name:os.system has no"),
        (SCRIPT + b"storage: !mine x\n", "the tag !mine has no meaning in a spec"),
        (SCRIPT + b"env: &a {x: *a}\n", "`*a` stands inside of `&a`"),
        (SCRIPT + b"env: *b\n", "there is no anchor `&b` above"),
        (SCRIPT + b"slurm: {extra: {x: " + b"[" * 100 + b"]" * 100 + b"}}\n", "nested deeper than 64 levels"),
        (SCRIPT + b"storage: a: b\n", "a second `: ` on one line"),
        (SCRIPT + b"env: {A: b\n", "not valid YAML"),
        (SCRIPT + b"storage: 'abc\n", "a quote that is never closed"),
        (SCRIPT + b"storage: @x\n", "nothing in YAML begins with `@`"),
        (SCRIPT + b"name: again\n", "the key `name` is written twice"),
        (SCRIPT + b"<<: [a]\n", "`<<` merges mappings"),
    ],
)
@pytest.mark.parametrize("loader", ["libyaml", "python"])
def test_what_is_no_spec(tmp_path: Path, data: bytes, said: str, loader: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if loader == "python":
        monkeypatch.setattr(torchrelay_launch.spec.tree, "_LOADER", torchrelay_launch.spec.tree.yaml.SafeLoader)
    errors = errors_of(tmp_path / "job.yaml", data)
    assert said in str(errors)
    assert len(errors.problems) == 1


def test_an_alias_bomb_is_refused_at_once(tmp_path: Path) -> None:
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    errors = errors_of(tmp_path / "job.yaml", "\n".join(lines).encode())
    assert "more than 20000 values, with aliases written out" in str(errors)


def test_anchors_aliases_and_merge_keys_work(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(SCRIPT + b"env: &e {A: x, B: y}\nslurm: {extra: {<<: *e, B: z, c: *e}}\n")
    assert read_spec(str(path)).job.slurm.extra == {"A": "x", "B": "z", "c": {"A": "x", "B": "y"}}


def test_a_byte_order_mark_is_no_part_of_the_spec(tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_bytes(b"\xef\xbb\xbf" + SCRIPT)
    assert read_spec(str(tmp_path / "job.yaml")).job.name == "job"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "digits.yaml").write_bytes(SCRIPT)
    for path, said in [
        (tmp_path / "digts.yaml", "there is no such file\n      = did you mean `digits.yaml`?"),
        (tmp_path, "this is a folder, not a spec\n      = specs in it: digits.yaml"),
        (tmp_path / "no" / "job.yaml", f"there is no folder {tmp_path / 'no'} either"),
        (Path("/dev/null"), "this is no ordinary file"),
        (tmp_path / "digits.yaml" / "x", "can't be read: Not a directory"),
        ("a\0b", "no possible path: "),
    ]:
        with pytest.raises(SpecErrors) as caught:
            read_spec(str(path))
        assert said in str(caught.value)


def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(SCRIPT)
    path.chmod(0)
    me = os.geteuid()
    if me == 0:
        os.seteuid(65534)  # root may read everything, nobody may not
    try:
        with pytest.raises(SpecErrors, match="no permission to read it"):
            read_spec(str(path))
    finally:
        os.seteuid(me)


@pytest.mark.parametrize(
    ("text", "said", "hint"),
    [
        (b"nme: x\n", "unknown key `nme`", "did you mean `name`?"),
        (b"resources: {gpus: 1}\n", "resources: unknown key `gpus`", "did you mean `gpus_per_node`?"),
        (b"kubernetes: {code: image}\n", "kubernetes: unknown key `code`", "write `code:` at the top level"),
        (b"zzz: 1\n", "unknown key `zzz`", "keys here: name, train"),
        (b"slurm: {nice: 1}\n", "slurm: unknown key `nice`", "goes under `slurm.extra`, by its long name"),
        (b"train: lm\n", "train: expected a mapping with `task`, `data`", ""),
        (b"env: [a]\n", "env: expected a mapping of names to values, not a list", ""),
        (b"secrets: HF_TOKEN\n", "secrets: expected a list, not `HF_TOKEN`", "write [HF_TOKEN]"),
        (b"backend: slrum\n", "backend: expected local, slurm or kubernetes, not `slrum`", "did you mean `slurm`?"),
        (b"slurm:\n", "there is nothing after `slurm:`; expected a mapping", "write a mapping"),
        (b"restarts: {on_failure: -1}\n", "restarts.on_failure: expected at least 0, not -1", ""),
        (
            b'kubernetes: {labels: {team: "not valid!"}}\n',
            "kubernetes.labels.team: expected a value of a label: letters, digits",
            "such as {team: vision}",
        ),
        (
            b"kubernetes: {node_selector: {a b: x}}\n",
            "kubernetes.node_selector: expected a name: letters",
            "{pool: gpu}",
        ),
        (b"kubernetes: {devices: {rdma/hca: 0}}\n", "kubernetes.devices.rdma/hca: expected at least 1, not 0", ""),
        (
            b"kubernetes: {capabilities: [ipc lock]}\n",
            "kubernetes.capabilities.0: expected a capability's name",
            "[IPC_LOCK]",
        ),
        (b"checkpoint: {keep_best: {}}\n", "checkpoint.keep_best: the key `metric` is missing", "such as val/loss"),
    ],
)
def test_keys_and_types(tmp_path: Path, text: bytes, said: str, hint: str) -> None:
    good = SCRIPT if not text.startswith((b"nme", b"train")) else b"script: train.py\n"
    errors = errors_of(tmp_path / "job.yaml", good + text)
    [problem] = [one for one in errors.problems if said in one.text]
    assert hint in problem.hint


def test_a_mistyped_key_is_not_also_missing(tmp_path: Path) -> None:
    errors = errors_of(tmp_path / "job.yaml", b"nme: job\nscirpt: a.py\n")
    assert [one.text for one in errors.problems] == ["unknown key `nme`", "unknown key `scirpt`"]


def test_errors_end_with_the_configuration_exit_code(tmp_path: Path) -> None:
    errors = errors_of(tmp_path / "job.yaml", b"")
    assert isinstance(errors, ConfigError)
    assert errors.exit_code == ExitCode.CONFIG
    assert not errors.retryable


@pytest.mark.parametrize("values", [None, [], {"nam": "x"}, {"name": "x", "resources": {"nodes": "many"}}, {"env": 3}])
def test_a_record_that_is_no_spec(values: object) -> None:
    with pytest.raises(ConfigError, match="does not fit this version"):
        load_resolved(values)  # type: ignore[arg-type]
