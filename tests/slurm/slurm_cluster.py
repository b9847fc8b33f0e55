"""A real Slurm on this machine: munge, MariaDB, slurmdbd, slurmctld and one slurmd per node, all in one folder.

Nothing of it touches a Slurm that the machine may have: own key, own sockets, own ports on loopback, own state. Every
process carries SLURM_CONF of this cluster in its environment, and a watcher ends all that do when the tests end, also
when pytest is killed.
"""

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from slurm_conf import NO_CGROUPS, NODE_CONF, SLURM_CONF, SLURMDBD_CONF

NODES = ("n1", "n2", "n3")
CPUS_PER_NODE = 4
START_LIMIT_S = 120.0
SLURMD_TIMEOUT_S = 8  # a node whose slurmd is silent for so long is down
KILL_WAIT_S = 10  # from SIGTERM to SIGKILL
_SBIN = "/usr/sbin:/sbin:/usr/local/sbin"


class ClusterError(Exception):
    """The cluster could not be started; the text holds the end of the log that says why."""


class Cluster:
    """The running cluster. `environment` is what a user of it has in the shell."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="torchrelay-slurm-"))  # short: a socket's path has 107 bytes at most
        self.folder.chmod(0o755)
        self.environment = os.environ | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:{_SBIN}",
        }
        self.ports = _free_ports(3 + len(NODES))
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self.start_s = 0.0  # how long the start took
        self._watcher = _start_watcher(self.environment["SLURM_CONF"])

    def start(self) -> None:
        """Start everything. Raises: ClusterError."""
        began = time.monotonic()
        self._check_programs()
        self._configure()
        self._start_munge()
        self._start_database()
        self.start_daemon("slurmdbd", "-D")
        self._wait("slurmdbd", lambda: self.run("sacctmgr", "-n", "show", "cluster", check=False).returncode == 0)
        self.run("sacctmgr", "-i", "add", "cluster", "relay", check=False)
        self.start_daemon("slurmctld", "-D", "-c")
        for node in NODES:
            self.start_slurmd(node)
        self._wait("slurmctld", lambda: set(self.node_states().values()) == {"idle"})
        self.start_s = time.monotonic() - began

    def stop(self) -> None:
        """End every process of the cluster and of its jobs, and remove its folder."""
        assert self._watcher.stdin is not None
        self._watcher.stdin.close()
        self._watcher.wait(30)
        for process in self.daemons.values():
            process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)

    def run(self, *argv: str, check: bool = True, **kwargs: Any) -> "subprocess.CompletedProcess[str]":
        """Run a Slurm command to its end. Raises: ClusterError if `check` and it fails."""
        done = subprocess.run(
            argv, env=self.environment, text=True, capture_output=True, timeout=60, check=False, **kwargs
        )
        if check and done.returncode != 0:
            raise ClusterError(f"{' '.join(argv)} ended with {done.returncode}: {done.stderr.strip()}")
        return done

    def output(self, *argv: str) -> str:
        """What a Slurm command prints."""
        return self.run(*argv).stdout.strip()

    def node_states(self) -> dict[str, str]:
        """Every node's state, such as idle, mixed, down or down*."""
        lines = self.run("sinfo", "-h", "-N", "-p", "main", "-o", "%N %t", check=False).stdout.split("\n")
        return dict(line.split() for line in lines if line)

    def job(self, job_id: str) -> dict[str, str]:
        """What `scontrol show job` says of a job."""
        text = self.run("scontrol", "-o", "show", "job", job_id, check=False).stdout
        return dict(re.findall(r"(\S+?)=(\S*)", text))

    def version(self) -> tuple[int, int]:
        """Slurm's version, such as (24, 11)."""
        major, minor = self.output("slurmctld", "-V").split()[1].split(".")[:2]
        return int(major), int(minor)

    def start_slurmd(self, node: str) -> None:
        self.start_daemon("slurmd", "-D", "-N", node, name=f"slurmd-{node}")

    def kill_daemon(self, name: str) -> None:
        """SIGKILL to a daemon, such as slurmd-n2 or slurmctld."""
        process = self.daemons.pop(name)
        process.kill()
        process.wait(10)

    def kill_node(self, node: str) -> None:
        """As when its power fails: slurmd, the daemons of its steps, and all that they started."""
        self.kill_daemon(f"slurmd-{node}")
        for pid in _marked(self.environment["SLURM_CONF"]):
            with contextlib.suppress(OSError, ProcessLookupError):
                process = Path(f"/proc/{pid}")
                if f"SLURMD_NODENAME={node}".encode() not in (process / "environ").read_bytes().split(b"\0"):
                    continue
                parent = int((process / "stat").read_text().rpartition(")")[2].split()[1])
                if Path(f"/proc/{parent}/comm").read_text().startswith("slurmstepd"):
                    os.kill(parent, signal.SIGKILL)
                os.kill(pid, signal.SIGKILL)

    def restore(self) -> None:
        """Bring back what a test broke: daemons that it killed, nodes that it set down, jobs that it left."""
        for name in ("slurmctld", *(f"slurmd-{node}" for node in NODES)):
            if name not in self.daemons:
                argv = ("slurmctld", "-D") if name == "slurmctld" else ("slurmd", "-D", "-N", name[-2:])
                self.start_daemon(*argv, name=name)
        self._wait("slurmctld", lambda: self.run("sinfo", check=False).returncode == 0)
        self.run("scancel", "--user", _user(), check=False)
        self.run("scancel", "--user", _user(), "--signal=KILL", check=False)
        for node in NODES:
            self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        self._wait("slurmctld", lambda: set(self.node_states().values()) == {"idle"})

    def start_daemon(self, program: str, *options: str, name: str = "") -> None:
        """Start a daemon in the foreground, so that it is this process's child."""
        path = shutil.which(program, path=self.environment["PATH"])
        assert path is not None
        log = (self.folder / f"{name or program}.log").open("ab")
        self.daemons[name or program] = subprocess.Popen(
            [path, *options],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        log.close()

    def _check_programs(self) -> None:
        programs = ("munged", "mariadbd", "mariadb-install-db", "slurmdbd", "slurmctld", "slurmd", "sbatch", "sacct")
        missing = [one for one in programs if shutil.which(one, path=self.environment["PATH"]) is None]
        if missing:
            raise ClusterError(f"missing: {', '.join(missing)}; `tests/install.sh` installs them")

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        ctld_port, dbd_port, mysql_port, *node_ports = self.ports
        values = {
            "folder": self.folder,
            "host": host,
            "user": _user(),
            "ctld_port": ctld_port,
            "dbd_port": dbd_port,
            "mysql_port": mysql_port,
            "password": secrets.token_hex(16),
            "slurmd_timeout": SLURMD_TIMEOUT_S,
            "kill_wait": KILL_WAIT_S,
        }
        self._password = values["password"]
        pairs = zip(NODES, node_ports, strict=True)
        nodes = [NODE_CONF.format(name=name, host=host, port=port, cpus=CPUS_PER_NODE) for name, port in pairs]
        _write(self.folder / "slurm.conf", SLURM_CONF.format(nodes="\n".join(nodes), **values))
        _write(self.folder / "slurmdbd.conf", SLURMDBD_CONF.format(**values), 0o600)
        _write(self.folder / "cgroup.conf", NO_CGROUPS if self.version() >= (23, 11) else "CgroupAutomount=no\n")
        _write(self.folder / "gres.conf", self._fake_gpus())
        (self.folder / "ctld").mkdir(0o700)

    def _fake_gpus(self) -> str:
        lines = []
        for node in NODES:
            for index in range(2):
                (self.folder / f"{node}-gpu{index}").touch()
            lines.append(f"NodeName={node} Name=gpu File={self.folder}/{node}-gpu[0-1]")
        return "\n".join(lines) + "\n"

    def _start_munge(self) -> None:
        key = self.folder / "munge.key"
        key.touch(0o600)
        key.write_bytes(secrets.token_bytes(128))
        names = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed", "key-file": "key"}
        files = [f"--{option}={self.folder}/munge.{name}" for option, name in names.items()]
        self.start_daemon("munged", "--foreground", "--force", *files)
        self._wait("munged", (self.folder / "munge.socket").exists)

    def _start_database(self) -> None:
        """A MariaDB that only this machine reaches, with one user of a random password."""
        data = self.folder / "mysql"
        common = [f"--datadir={data}", f"--user={_user()}"]
        self.run("mariadb-install-db", "--no-defaults", *common, "--skip-test-db", "--skip-name-resolve")
        setup = _write(
            self.folder / "setup.sql",
            "create database slurm_acct;\n"
            f"grant all on slurm_acct.* to slurm@'127.0.0.1' identified by '{self._password}';\n",
            0o600,
        )
        self.start_daemon(
            "mariadbd", "--no-defaults", *common, f"--socket={self.folder}/mysql.socket", "--bind-address=127.0.0.1",
            f"--port={self.ports[2]}", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0",
            "--innodb-buffer-pool-size=32M", "--skip-log-bin", f"--init-file={setup}",
        )  # fmt: skip
        self._wait("mariadbd", lambda: _accepts(self.ports[2]))

    def _wait(self, daemon: str, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + START_LIMIT_S
        while not condition():
            process = self.daemons.get(daemon)
            if (process and process.poll() is not None) or time.monotonic() > deadline:
                log = self.folder / f"{daemon}.log"
                tail = log.read_text(errors="replace")[-3000:] if log.exists() else "(no log)"
                raise ClusterError(f"{daemon} did not come up; the end of its log:\n{tail}")
            time.sleep(0.05)


def _write(path: Path, text: str, mode: int = 0o644) -> Path:
    path.touch(mode)
    path.write_text(text)
    return path


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, below those that the kernel gives out by itself, so that they stay free."""
    found: list[int] = []
    while len(found) < count:
        port = 10000 + secrets.randbelow(10000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            found.append(port)
    return found


def _accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _start_watcher(conf: str) -> "subprocess.Popen[bytes]":
    """A process that waits until the pipe to it breaks, then ends whatever belongs to the cluster."""
    return subprocess.Popen(
        [sys.executable, __file__, conf], stdin=subprocess.PIPE, start_new_session=True, cwd="/", env={"PATH": "/bin"}
    )


def _marked(conf: str) -> list[int]:
    """Processes that have this SLURM_CONF in their environment."""
    mark = f"SLURM_CONF={conf}".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if mark in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


def _watch(conf: str) -> None:
    sys.stdin.buffer.read()
    deadline = time.monotonic() + 20.0
    while (pids := _marked(conf)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    shutil.rmtree(Path(conf).parent, ignore_errors=True)


if __name__ == "__main__":
    _watch(sys.argv[1])
