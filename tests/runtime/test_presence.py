"""A rank dies with the torchrun that started it, and touches its registration now and then."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from torchrelay.contract import reports
from torchrelay.presence import Presence
from torchrelay.signals import StopSignals

PARENT = """
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-c", sys.argv[1]])
print(rank.pid, flush=True)
time.sleep(30)
"""
RANK = "from torchrelay import presence; import time; presence.enter(); time.sleep(30)"


def test_a_rank_dies_with_its_parent(tmp_path):
    env = {**os.environ, "TORCHRELAY_REPORTS": str(tmp_path), "RANK": "3"}
    parent = subprocess.Popen([sys.executable, "-c", PARENT, RANK], stdout=subprocess.PIPE, env=env, text=True)
    rank = int(parent.stdout.readline())
    deadline = time.monotonic() + 30
    while not reports.registrations(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(reports.registrations(tmp_path)) == {reports.Registration(3, rank)}
    parent.send_signal(signal.SIGKILL)
    parent.wait(timeout=30)
    parent.stdout.close()
    while _alive(rank) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _alive(rank)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_progress_is_told_at_most_once_a_second(tmp_path):
    path = reports.register(tmp_path, 0)
    os.utime(path, (0, 0))
    present = Presence(StopSignals(impatient=False), path)
    now = time.monotonic()
    assert not present.touch(now + 0.5)
    assert path.stat().st_mtime == 0
    assert present.touch(now + 1.5)
    assert path.stat().st_mtime > 0
    assert not present.touch(now + 2.0)
