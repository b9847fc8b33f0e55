"""What a user sees when something is wrong: one clear message, the right exit code, and nothing lost."""

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.e2e


def sets(*overrides: str) -> list[str]:
    """`--set` for each."""
    return [word for override in overrides for word in ("--set", override)]


ONE_RANK = sets("resources.procs_per_node=1", "train.data.workers=0", "train.epochs=1")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.model.target=torchrelay.models.mpl", ["train.model.target", "mlp"]),
        ("train.model.args.sises=[64, 10]", ["train.model", "sises", "sizes"]),
        ("train.optimizer.args.lr=fast", ["train.optimizer", "fast"]),
        ("train.data.train.target=no_such_module:Set", ["train.data.train", "no_such_module"]),
        (
            "train.data.train={target: torchvision.datasets.MNIST, args: {root: nowhere}}",
            ["train.data.train", "MNIST", "download"],
        ),
        ("train.loss=cross_entrophy", ["train.loss", "cross_entropy"]),
    ],
)
def test_what_only_a_rank_can_find_out_is_the_users_to_fix_and_never_retried(
    relay: Any, override: str, says: list[str]
) -> None:
    output = relay("run", "paced.yaml", *ONE_RANK, *sets(override), code=78)
    for word in says:
        assert word in output
    assert "Traceback" not in output
    assert relay.json("status", relay.run().name)["exit_code"] == 78
    assert len(list(relay.run().glob("attempts/0001/restart-*.json"))) <= 1


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("process_group=nccl", "nccl"),
        ("resources.gpus_per_node=8", "GPU"),
        ("resources.procs_per_node=500", "500"),
        ("script=missing.py", "script"),
        ("train.sede=1", "seed"),
    ],
)
def test_what_the_launcher_can_find_out_starts_nothing(relay: Any, override: str, says: str) -> None:
    output = relay("run", "paced.yaml", *sets(override), code=78)
    assert says in output
    assert "Traceback" not in output
    assert not relay.storage.exists()


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_its_checkpoint(relay: Any) -> None:
    relay.folder.joinpath("bad.py").write_text(
        "import torch, paced\n"
        "class Bad(paced.Digits):\n"
        "    def __getitem__(self, index):\n"
        "        image, label = super().__getitem__(index)\n"
        "        return (image * float('nan') if index == 700 else image), label\n"
    )
    output = relay(
        "run", "paced.yaml", *ONE_RANK, *sets("train.data.train.target=bad:Bad", "checkpoint.every=1 steps"), code=70
    )
    status = relay.json("status", relay.run().name)
    assert "nan" in output.lower()
    assert "rank 0" in output
    assert "Traceback" not in output
    failed_at = status["last_checkpoint_step"]
    assert f"step {failed_at + 1}" in output
    assert relay.json("checkpoints", "verify", relay.run().name)
    assert len(list(relay.run().glob("attempts/0001/restart-*.json"))) == 1


def test_a_users_exception_shows_its_rank_and_traceback_and_is_retried_within_the_budget(relay: Any) -> None:
    relay.folder.joinpath("raising.py").write_text(
        "import paced\n"
        "class Raising(paced.Digits):\n"
        "    def __getitem__(self, index):\n"
        "        if index == 700:\n"
        "            raise ValueError('sample 700 is rotten')\n"
        "        return super().__getitem__(index)\n"
    )
    changes = sets("train.data.train.target=raising:Raising", "restarts.on_failure=1")
    output = relay("run", "paced.yaml", *ONE_RANK, *changes, code=70)
    assert "sample 700 is rotten" in output
    assert "raising.py" in output
    assert "rank 0" in output
    assert len(list(relay.run().glob("attempts/0001/restart-*.json"))) == 2


def test_a_checkpoint_of_another_model_is_refused(relay: Any) -> None:
    job = relay.start("run", "paced.yaml", *ONE_RANK)
    relay.wait_for_step(3)
    relay("stop", relay.run().name)
    relay.finish(job, 75)
    before = relay.digest()
    output = relay("resume", relay.run().name, *sets("train.model.args.sizes=[64, 50, 10]"), code=78)
    assert "96" in output
    assert "50" in output
    assert "Traceback" not in output
    assert relay.digest() == before


def test_a_run_is_resumed_once_and_only_when_it_has_stopped(relay: Any) -> None:
    job = relay.start("run", "paced.yaml", *ONE_RANK)
    relay.wait_for_step(3)
    assert "running" in relay("resume", relay.run().name, code=78)
    relay.finish(job)
    assert "complete" in relay("resume", relay.run().name)
    assert relay.json("status", relay.run().name)["attempts"] == 1


def test_a_folder_that_cannot_hold_runs(relay: Any) -> None:
    relay.folder.joinpath("file").write_text("")
    output = relay("run", "paced.yaml", "--storage", "file/runs", code=74)
    assert "file" in output
    assert "--storage" in output
    assert "Traceback" not in output


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own that soon is full. Needs root, as CI has."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_is_reported_and_no_earlier_checkpoint_suffers(relay: Any) -> None:
    wide = sets("train.model.args.sizes=[64, 512, 512, 10]", "checkpoint.every=5 steps", "checkpoint.keep_last=1000")
    with small_disk(relay.folder / "small", "13m") as disk:
        relay.storage = disk
        output = relay("run", "paced.yaml", *ONE_RANK, *wide, "--storage", str(disk), code=74)
        assert "No space left on device" in output
        assert "Traceback" not in output
        failed = relay.events("checkpoint_failed")[0]["step"]
        goes_on = output.index(f"no checkpoint at step {failed}, training goes on")
        assert f"step {failed + 2}/23" in output[goes_on:]
        status = relay.json("status", str(relay.run()))
        assert 5 <= status["last_checkpoint_step"] < failed
        relay("checkpoints", "verify", str(relay.run()))
        for ballast in sorted(relay.run().glob("checkpoints/*"))[:2]:
            subprocess.run(["rm", "-r", str(ballast)], check=True)
        assert relay.json("checkpoints", "digest", str(relay.run()))["step"] == status["last_checkpoint_step"]
        relay("resume", str(relay.run()))
        assert relay.json("checkpoints", "digest", str(relay.run()))["step"] == 23


SCRIPT = """
import json, os, sys
from pathlib import Path
rank = os.environ["RANK"]
Path(f"seen-{rank}").write_text(json.dumps([sys.argv[1:], os.environ["WORLD_SIZE"], os.environ["GREETING"]]))
sys.exit(int(sys.argv[1]) if rank == "1" else 0)
"""


@pytest.mark.parametrize("kind", ["script", "module"])
def test_a_script_gets_its_arguments_and_keeps_its_exit_code(relay: Any, kind: str) -> None:
    relay.folder.joinpath("program.py").write_text(SCRIPT)
    name = "program.py" if kind == "script" else "program"
    relay.folder.joinpath("job.yaml").write_text(
        f'name: job\n{kind}: {name}\nargs: [\'3\', "it\'s $HOME", "two\\nlines"]\n'
        "env: {GREETING: 'a \"b\" $c'}\nresources: {procs_per_node: 2}\nrestarts: {on_failure: 0}\n"
    )
    relay("run", "job.yaml", code=3)
    for rank in range(2):
        seen = json.loads(relay.folder.joinpath(f"seen-{rank}").read_text())
        assert seen == [["3", "it's $HOME", "two\nlines"], "2", 'a "b" $c']
    assert os.listdir(relay.storage)
