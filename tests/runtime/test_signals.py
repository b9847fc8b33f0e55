"""What a rank and its DataLoader workers make of signals. Each case is a process of its own."""

import os
import signal
import subprocess
import sys
import time

import pytest

RANK = """
import os, sys, time
from torchrelay import signals
noted = signals.StopSignals(impatient=sys.argv[1] == "impatient")
noted.install()
print("ready", flush=True)
deadline = time.monotonic() + 30
while time.monotonic() < deadline and not os.path.exists(sys.argv[2]):
    time.sleep(0.01)
print(noted.received, flush=True)
"""

WORKER = """
import os, signal, time
from torchrelay import signals
worker = os.fork()
if worker == 0:
    signals.worker_init(0)
    print("ready", flush=True)
    time.sleep(30)
    os._exit(9)
input()
os.kill(worker, signal.SIGINT)
time.sleep(0.2)
assert os.waitpid(worker, os.WNOHANG) == (0, 0), "SIGINT ended the worker"
os.kill(worker, signal.SIGTERM)
print(os.waitpid(worker, 0)[1], flush=True)
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_the_first_signal_is_noted_and_nothing_ends(tmp_path, number):
    process = start(RANK, "patient", str(tmp_path / "end"))
    process.send_signal(number)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.1)
    tmp_path.joinpath("end").touch()
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == (f"{number.value}\n", 0)


def test_one_ctrl_c_that_comes_twice_is_a_stop(tmp_path):
    process = start(RANK, "impatient", str(tmp_path / "end"))
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.1)
    tmp_path.joinpath("end").touch()
    out, _ = process.communicate(timeout=30)
    assert (out, process.returncode) == (f"{signal.SIGINT.value}\n", 0)


def test_a_second_ctrl_c_at_a_terminal_ends_at_once(tmp_path):
    process = start(RANK, "impatient", str(tmp_path / "end"))
    process.send_signal(signal.SIGINT)
    time.sleep(1.3)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130


def test_sigusr2_prints_stacks(tmp_path):
    process = start(RANK, "patient", str(tmp_path / "end"))
    process.send_signal(signal.SIGUSR2)
    time.sleep(0.1)
    tmp_path.joinpath("end").touch()
    out, err = process.communicate(timeout=30)
    assert (out, process.returncode) == ("0\n", 0)
    assert "most recent call first" in err


def test_a_worker_outlives_the_group_and_obeys_its_parent():
    process = start(WORKER)
    os.killpg(process.pid, 0)  # the group is the process's own
    children = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True)
    worker = int(children.stdout)
    for number in (signal.SIGTERM, signal.SIGUSR1):
        os.kill(worker, number)
        time.sleep(0.2)
        os.kill(worker, 0)
    out, err = process.communicate("go\n", timeout=30)
    assert (out, process.returncode) == ("0\n", 0), err
