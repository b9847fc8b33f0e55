"""torchrun through the fork server, held back until its store has a host. In a process that may adopt orphans."""

import subprocess
import sys
from pathlib import Path

HELD_BACK = """
import asyncio, os, sys
from torchrelay_launch.supervisor.fork_client import Command
from torchrelay_launch.supervisor.linux import Children, become_subreaper
from torchrelay_launch.supervisor.starter import Starter

async def main():
    become_subreaper()
    children = Children()
    children.install(asyncio.get_running_loop())
    starter, asked, listens = Starter(children), asyncio.Event(), asyncio.Event()

    async def ready():
        asked.set()
        await listens.wait()

    command = Command([sys.executable, "-m", "torch.distributed.run", "--help"], os.environ, os.getcwd(), 5.0)
    starting = asyncio.create_task(starter.start(command, os.open("output", os.O_WRONLY | os.O_CREAT), ready))
    await asked.wait()
    await asyncio.sleep(0.5)
    print("before:", os.path.getsize("output"))
    listens.set()
    await children.ended(await starting)
    starter.close()

asyncio.run(main())
"""


def test_torchrun_begins_when_it_may(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", HELD_BACK]
    done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert (done.stdout, done.returncode) == ("before: 0\n", 0), done.stderr
    assert "--rdzv-endpoint" in tmp_path.joinpath("output").read_text()
