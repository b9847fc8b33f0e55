"""What must hold between keys."""

import importlib
from pathlib import Path

import pytest

from torchrelay_launch.spec.reader import SpecErrors, read_spec

SCRIPT = "name: job\nscript: train.py\n"
TRAIN = (
    "name: job\n"
    "train:\n"
    "  task: lm\n"
    "  data: {train: {target: a.b}}\n"
    "  model: {target: a.b}\n"
    "  optimizer: {target: a.b}\n"
    "  global_batch: 8\n"
)


def problems(folder: Path, text: str) -> list[tuple[str, str]]:
    path = folder / "job.yaml"
    path.write_text(text)
    try:
        read_spec(str(path))
    except SpecErrors as errors:
        return [(one.text, one.hint) for one in errors.problems]
    return []


WRONG = [
    ("name: job\n", "expected one of `train`, `script` or `module`"),
    (SCRIPT + "module: a.b\n", "module: expected only one of `train`, `script` or `module`"),
    (TRAIN + "  steps: 1\nargs: [x]\n", "args: these go with `script` or `module`"),
    (TRAIN, "train: expected one of `epochs` or `steps`"),
    (TRAIN + "  steps: 1\n  epochs: 1\n", "train.steps: expected only one of `epochs` or `steps`"),
    (TRAIN + "  steps: 1\nrestarts: {torchrun: 2}\n", "the built-in trainer is restarted by `on_failure` only"),
    (TRAIN.replace("lm", "lmm") + "  steps: 1\n", "train.task: expected classification, lm or an import path"),
    (TRAIN + "  steps: 1\n  evaluate_every: 5 steps\n", "there is no validation set"),
    (TRAIN + "  steps: 1\n  early_stopping: {metric: val/loss}\n", "there is no validation set"),
    (TRAIN + "  steps: 1\ncheckpoint: {keep_best: {metric: val/loss}}\n", "there is no validation set"),
    (
        TRAIN.replace("}}", "}, val: {target: a.b}}") + "  steps: 1\n  evaluate_every: 5m\n",
        "expected steps, since time",
    ),
    (TRAIN + "  steps: 1\nresources: {nodes: 3..5, procs_per_node: 3}\n", "8 samples can't be shared by 9 ranks"),
    (SCRIPT.replace("train.py", "-m"), "script: expected the path of a file"),
    (SCRIPT.replace("train.py", '""'), "script: expected the path of a file"),
    ("name: job\nmodule: train.py2/x\n", "module: expected a dotted module name"),
    (SCRIPT + "process_group: nccl\n", "nccl needs GPUs"),
    (SCRIPT + "resources: {gpus_per_node: 2, procs_per_node: 4}\n", "4 processes can't share 2 GPUs with nccl"),
    (
        SCRIPT + "resources: {time_limit: 60s}\n",
        "`restarts.grace` (2m) must be shorter than `resources.time_limit` (1m)",
    ),
    (SCRIPT + "resources: {memory: 0B}\n", "expected more than 0B"),
    (SCRIPT + "restarts: {watchdog: 0s}\n", "expected more than 0s"),
    (SCRIPT + "env: {1A: x}\n", "env.1A: no name of an environment variable"),
    (SCRIPT + 'env: {"a.b": x}\n', "env.a.b: no name of an environment variable"),
    (SCRIPT + 'env: {"": x}\n', "no name of an environment variable"),
    (SCRIPT + 'env: {RANK: "0"}\n', "torchrun or torchrelay sets this variable itself"),
    (SCRIPT + "env: {TORCHRELAY_RUN: x}\n", "torchrun or torchrelay sets this variable itself"),
    (SCRIPT + 'env: {MASTER_PORT: "1"}\n', "torchrun or torchrelay sets this variable itself"),
    (SCRIPT + "env: {A: x}\nsecrets: [A]\n", "secrets.0: `A` is also in `env:`"),
    (SCRIPT + "secrets: [A, A]\n", "secrets.1: `A` is listed twice"),
    (SCRIPT + "secrets: [A=b]\n", "secrets.0: expected only the name of a variable"),
    (SCRIPT + "secrets: [a-b]\n", "secrets.0: no name of an environment variable"),
    (SCRIPT + "storage_options: {secret: abcdef}\n", "storage_options.secret: this looks like a secret"),
    (SCRIPT + "storage_options: {key: 12345678}\n", "storage_options.key: this looks like a secret"),
    (SCRIPT + "storage_options: {a: [{password: x}]}\n", "storage_options.a.0.password: this looks like a secret"),
    (SCRIPT + "storage_options: {url: 'http://me:pass@host'}\n", "storage_options.url: this looks like a secret"),
    (SCRIPT + "storage: sftp://me:hunter2@host/runs\n", "storage: this looks like a secret"),
    (SCRIPT + "storage_options: {retry_s: 0}\n", "storage_options.retry_s: expected a number above 0, not 0"),
    (SCRIPT + "storage_options: {parallel: 1.5}\n", "storage_options.parallel: expected a whole number above 0"),
]


@pytest.mark.parametrize(("text", "said"), WRONG, ids=[said for _, said in WRONG])
def test_wrong(tmp_path: Path, text: str, said: str) -> None:
    [(shown, _)] = problems(tmp_path, text)
    assert said in shown


@pytest.mark.parametrize(
    "text",
    [
        SCRIPT,
        SCRIPT + "train: null\n",
        TRAIN + "  steps: 1\nresources: {nodes: 2..8, procs_per_node: 1}\n",
        TRAIN.replace("lm", "pkg.tasks:Mine") + "  epochs: 1\n  steps: null\n",
        SCRIPT + "resources: {gpus_per_node: 2, procs_per_node: 4}\nprocess_group: gloo\n",
        SCRIPT + "resources: {time_limit: 60s}\nrestarts: {grace: 30s, torchrun: 1}\n",
        SCRIPT + "checkpoint: {keep_best: {metric: mine}}\n",
        SCRIPT + "storage_options: {endpoint_url: 'http://minio:9000', retry_s: 60, anon: false, token: cloud}\n",
        SCRIPT + "storage_options: {}\n",
    ],
)
def test_right(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text) == []


@pytest.mark.parametrize(
    "name",
    ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "DB_PASSWORD", "MYSECRET", "apikey", "AWS_ACCESS_KEY_ID"],
)
def test_secrets_written_down_are_refused_and_never_shown(tmp_path: Path, name: str) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(f"{SCRIPT}env: {{{name}: hunter2hunter2}}\nbackend: hunter2hunter2\n")
    with pytest.raises(SpecErrors) as caught:
        read_spec(str(path))
    assert f"env.{name}: this looks like a secret" in str(caught.value)
    assert f"secrets: [{name}]" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in str(caught.value.covered_problems()[0].text)


@pytest.mark.parametrize(
    "entry",
    ["TOKENIZERS_PARALLELISM: 'false'", "MAX_TOKEN: '512'", "SSH_KEY_PATH: /x/key", "MONKEY: banana", "A_KEY: 'no'"],
)
def test_what_only_sounds_like_a_secret(tmp_path: Path, entry: str) -> None:
    assert problems(tmp_path, f"{SCRIPT}env: {{{entry}}}\n") == []


@pytest.mark.parametrize(
    ("option", "said", "hint"),
    [
        ("nnodes: 2", "torchrelay sets this option itself", "use `resources.nodes`"),
        ("rdzv_backend: etcd", "torchrelay sets this option itself", ""),
        ("max-restarts: 2", "torchrelay sets this option itself", "use `restarts.torchrun`"),
        ("log-line-prefix-template: x", "torchrelay sets this option itself", ""),
        ("nnode: 2", "not an option of torchrun", "did you mean `nnodes`?"),
        ("numa-bindng: node", "not an option of torchrun", "did you mean `numa-binding`?"),
        ("--role: x", "not a long option of torchrun", "without dashes"),
        ("Role: x", "not a long option of torchrun", ""),
        ("role: [x]", "expected text or a number, not a list", ""),
        ("role: true", "this option needs a value", ""),
        ("role: null", "expected a value", ""),
        ("no-python: x", "this option takes no value", "write true"),
        ("zz-future: false", "expected a value, or true", ""),
    ],
)
def test_torchrun_options(tmp_path: Path, option: str, said: str, hint: str) -> None:
    [(text, shown)] = problems(tmp_path, f"{SCRIPT}torchrun: {{{option}}}\n")
    assert said in text
    assert hint in shown


def test_torchrun_options_that_pass(tmp_path: Path) -> None:
    options = "{numa-binding: node, monitor_interval: 0.5, virtual-local-rank: true, zz-future: 1, zz-flag: true}"
    assert problems(tmp_path, f"{SCRIPT}torchrun: {options}\n") == []
    [(text, _)] = problems(tmp_path, "name: a\nmodule: a.b\ntorchrun: {no-python: true}\n")
    assert "this option goes with `script` only" in text


def test_every_option_of_the_installed_torchrun_is_known() -> None:
    run = importlib.import_module("torch.distributed.run")
    from torchrelay_launch.spec.rules_torchrun import OURS, PASSED

    options = {one for action in run.get_args_parser()._actions for one in action.option_strings}
    names = {one.lstrip("-").replace("_", "-") for one in options}
    assert names - set(OURS) - PASSED == set()


def test_rules_speak_up_beside_other_errors(tmp_path: Path) -> None:
    found = problems(tmp_path, "name: Bad Name\nresources: {nodes: x}\nprocess_group: nccl\nenv: {RANK: '1'}\n")
    assert len(found) == 5


def test_a_secret_among_storage_options_is_shown_with_its_place_and_not_its_value(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(SCRIPT + "storage_options:\n  client_kwargs:\n    aws_secret_access_key: hunter2hunter2\n")
    with pytest.raises(SpecErrors) as caught:
        read_spec(str(path))
    report = caught.value.report()
    assert f"{path}:5:5" in report
    assert "hunter2" not in report
