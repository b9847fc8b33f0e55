"""Two live attempts of one run on S3: the old one was thought dead, and was only away for a while."""

import signal
import time
from pathlib import Path

import pytest
import ranks

from torchrelay.contract import layout
from torchrelay.contract.storage import Storage

TRAIN = ("--steps", "100000", "--sleep", "0.02")


def committed(storage: Storage, attempt: int) -> set[str]:
    """Folders with a manifest that an attempt has written."""
    names = [name for name in storage.list(layout.CHECKPOINTS) if f"-a{attempt:04d}-" in name]
    return {name for name in names if storage.size(f"{layout.CHECKPOINTS}/{name}/{layout.MANIFEST}") is not None}


def wait_for_commits(run: ranks.Supervised, gang: ranks.Gang, count: int) -> None:
    deadline = time.monotonic() + ranks.LIMIT_S
    while len(committed(run.storage, run.attempt)) < count:
        assert time.monotonic() < deadline, f"attempt {run.attempt} saved too little: {gang.end(1.0)}"
        assert gang.processes[0].poll() is None, f"attempt {run.attempt} ended: {gang.end()}"
        time.sleep(0.1)


@pytest.mark.timeout(300)
def test_only_the_newer_attempt_commits_and_the_older_one_ends_with_76(tmp_path: Path, s3_url: str) -> None:
    old = ranks.new_run(tmp_path, every="10 steps", url=f"{s3_url}/run", keep_last=1000)
    first = ranks.start(tmp_path / "first", *TRAIN, world_size=1, env=old.environment())
    wait_for_commits(old, first, 1)
    first.signal(0, signal.SIGSTOP)  # as a machine that hangs; somebody starts the run again
    before = committed(old.storage, 1)
    new = old.again(2)
    second = ranks.start(tmp_path / "second", *TRAIN, world_size=1, env=new.environment())
    wait_for_commits(new, second, 1)
    first.signal(0, signal.SIGCONT)
    (ended,) = first.end()
    assert ended.code == 76, ended
    assert "attempt 1 (restart 0) must not save any more: attempt 2 (restart 0) owns the run at" in ended.err
    assert "Traceback" not in ended.err
    assert old.ends()[0].exit_code == 76
    late = committed(old.storage, 1) - before
    assert not late
    assert old.outcome() is None  # the outcome of an attempt that was taken over is not its own to tell
    wait_for_commits(new, second, len(committed(new.storage, 2)) + 1)  # and the newer one was not disturbed
    second.signal(0, signal.SIGTERM)
    assert [one.code for one in second.end()] == [0]
    assert new.ends()[0].exit_code == 75
