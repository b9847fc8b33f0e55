"""The command line of `node`, which backends write and nobody types."""

from dataclasses import dataclass
from typing import NoReturn

from torchrelay.contract.errors import ConfigError

# The environment variable of the secret that the supervisors of an attempt share.
TOKEN_VARIABLE = "TORCHRELAY_TOKEN"  # noqa: S105 - a name, not a secret
JOIN_S = 300.0


@dataclass(frozen=True)
class NodeOptions:
    """What a supervisor is told by whoever starts it."""

    run: str  # URL
    attempt: int
    node: int = 0
    nodes: int = 1
    coordinator: str = "127.0.0.1:0"  # HOST:PORT of node 0's supervisor
    coordinator_fd: int | None = None  # node 0: a socket that listens there already
    tether: int | None = None  # a pipe whose end means that the launcher died
    join_s: float = JOIN_S  # how long to wait for the other nodes

    @property
    def address(self) -> tuple[str, int]:
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)

    def argv(self) -> list[str]:
        """The arguments that `parse` reads back to this."""
        argv = ["--run", self.run, "--attempt", str(self.attempt), "--node", str(self.node)]
        argv += ["--nodes", str(self.nodes), "--coordinator", self.coordinator]
        if self.join_s != JOIN_S:
            argv += ["--join", str(self.join_s)]
        if self.coordinator_fd is not None:
            argv += ["--coordinator-fd", str(self.coordinator_fd)]
        return argv + (["--tether", str(self.tether)] if self.tether is not None else [])


def parse(argv: list[str]) -> NodeOptions:
    """Raises: ConfigError."""
    import argparse

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            raise ConfigError(f"torchrelay node: {message}")

    parser = Parser(prog="torchrelay node", allow_abbrev=False)
    parser.add_argument("--run", required=True)
    parser.add_argument("--attempt", type=int, required=True)
    parser.add_argument("--node", type=int, default=0)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--coordinator", default="127.0.0.1:0")
    parser.add_argument("--coordinator-fd", type=int)
    parser.add_argument("--tether", type=int)
    parser.add_argument("--join", dest="join_s", type=float, default=JOIN_S)
    try:
        options = NodeOptions(**vars(parser.parse_args(argv)))
        valid = 0 <= options.node < options.nodes and options.attempt > 0 and options.address[1] >= 0
    except ValueError as error:
        raise ConfigError(f"torchrelay node: {error}") from error
    if not valid:
        raise ConfigError("torchrelay node: --node must lie in 0 to --nodes - 1, and --attempt be 1 or more")
    return options
