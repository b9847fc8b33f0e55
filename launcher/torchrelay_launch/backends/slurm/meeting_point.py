"""Where the nodes of a job meet: an address of the first node that all others reach, and a port that is free there."""

import ipaddress
import socket

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.backends.slurm import client
from torchrelay_launch.ports import first_free

FIRST_PORT, PORTS = 30000, 2700  # below the ports that kernels give out by themselves, above those of the rendezvous
TRIED = 100


def meeting_point(job_id: str, nodes: list[str]) -> str:
    """HOST:PORT for the coordinator, found on the first node. Raises: ConfigError, SchedulerError."""
    address = node_address(nodes[0], nodes[1] if len(nodes) > 1 else None)
    port = free_port(int("".join(filter(str.isdigit, job_id)) or 0))
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def free_port(job_number: int) -> int:
    """A port by the job's number, so that neighbours ask for different ones first. Raises: ConfigError."""
    port = first_free(FIRST_PORT + (job_number + attempt * 27) % PORTS for attempt in range(TRIED))
    if port is None:
        raise ConfigError(f"{TRIED} ports from {FIRST_PORT} on are in use on {socket.gethostname()}")
    return port


def node_address(node: str, other: str | None) -> str:
    """The address by which `other` reaches `node`: a number, since a name may mean another thing on each machine."""
    told = client.show("node", node).get("NodeAddr", node)
    if _is_number(told):
        return told
    for address in _resolved(told):  # Debian maps a machine's own name to a loopback address, which helps no other
        if not ipaddress.ip_address(address).is_loopback:
            return address
    return _towards(other) or told


def _is_number(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _resolved(name: str) -> list[str]:
    """Addresses of a name, IPv4 first."""
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    ordered = sorted(found, key=lambda one: one[0] != socket.AF_INET)
    return [str(one[4][0]).partition("%")[0] for one in ordered]


def _towards(other: str | None) -> str | None:
    """The address of the machine itself on the way to another node; nothing is sent."""
    if other is None:
        return None
    told = client.show("node", other).get("NodeAddr", other)
    for address in _resolved(told):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((address, 9))
                return str(probe.getsockname()[0])
        except OSError:
            continue
    return None
