"""Threads and processes that use the same objects on a real S3 server."""

import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from torchrelay.contract.storage import open_storage


def test_two_that_append_lose_nothing(s3_url):
    storages = [open_storage(s3_url, {"flush_s": 1000, "retry_s": 100 + number}) for number in range(3)]
    for turn in range(4):
        for number, storage in enumerate(storages):
            storage.append("both.log", f"{number}:{turn}\n".encode())
    threads = [threading.Thread(target=storage.flush) for storage in storages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    lines = storages[0].read("both.log").decode().split()
    assert sorted(lines) == sorted(f"{number}:{turn}" for number in range(3) for turn in range(4))
    assert [line for line in lines if line[0] == "1"] == ["1:0", "1:1", "1:2", "1:3"]


def test_threads_that_create_the_same_object_have_one_winner(s3_url):
    storages = [open_storage(s3_url, {"retry_s": 100 + number}) for number in range(4)]
    for turn in range(5):
        wins: list[int] = []
        barrier = threading.Barrier(len(storages))

        def claim(number, storage, turn=turn, wins=wins, barrier=barrier):
            barrier.wait(60)
            try:
                storage.create(f"claim-{turn}", b"the same content")
            except FileExistsError:
                return
            wins.append(number)

        threads = [threading.Thread(target=claim, args=pair) for pair in enumerate(storages)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(wins) == 1


def test_processes_that_create_the_same_object_have_one_winner(s3_url):
    program = Path(__file__).with_name("claiming.py")
    start = str(time.time() + 5)
    processes = [subprocess.Popen([sys.executable, str(program), s3_url, start, str(number)]) for number in range(3)]
    assert [process.wait(120) for process in processes] == [0, 0, 0]
    storage = open_storage(s3_url)
    assert [len(storage.list(f"won-{turn}")) for turn in range(5)] == [1] * 5


def test_a_forked_child_connects_anew(s3_url):
    storage = open_storage(s3_url, {"flush_s": 1000})
    storage.create("before", b"parent")
    storage.append("log", b"from the parent\n")
    child = os.fork()
    if child == 0:
        fine = False
        try:
            fine = storage.read("before") == b"parent"
            storage.flush()  # the parent's lines are the parent's to write
            fine = fine and storage.size("log") is None
            storage.create("after", b"child")
        finally:
            os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert storage.read("after") == b"child"
    storage.flush()
    assert storage.read("log") == b"from the parent\n"


def test_a_storage_can_be_sent_to_another_process(s3_url):
    storage = open_storage(s3_url)
    storage.create("file", b"x")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as workers:
        assert workers.submit(storage.read, "file").result() == b"x"
