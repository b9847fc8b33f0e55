"""Where pods meet: whether the first pod answers, by which name, on which port, over which interface."""

import contextlib
import fcntl
import socket
import struct

from torchrelay.contract.errors import ConfigError
from torchrelay_launch.ports import first_free

PORTS = 100
_ANSWER_S = 2.0
_SIOCGIFADDR = 0x8915  # linux/sockios.h; see netdevice(7)


def host_of(name: str, address: str) -> str:
    """The first pod's name if it stands for where that pod is now, else its address."""
    return name if address in _addresses(name) else address


def answers(host: str, port: int) -> bool:
    """Whether somebody listens there. Takes 2 s at most: a machine that is gone gives no answer at all."""
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=_ANSWER_S):
        return True
    return False


def free_port(first: int) -> int:
    """With the host's network, pods of other jobs may have the port. Raises: ConfigError."""
    port = first_free(range(first, first + PORTS))
    if port is None:
        raise ConfigError(f"kubernetes.port: all ports from {first} to {first + PORTS - 1} are in use")
    return port


def interfaces(address: str) -> dict[str, str]:
    """Variables by which gloo finds the pod's own interface where its host name does not lead there.

    With the host's network the name is the node's, which many nodes take for 127.0.0.1 or do not know.
    """
    if not address or address in _addresses(socket.gethostname()):
        return {}
    name = _interface(address)
    return {"GLOO_SOCKET_IFNAME": name} if name else {}


def _addresses(name: str) -> set[str]:
    with contextlib.suppress(OSError):
        return {str(one[4][0]) for one in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
    return set()


def _interface(address: str) -> str:
    """Name of the interface with this IPv4 address; empty if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            with contextlib.suppress(OSError):  # it has no address
                request = struct.pack("256s", name.encode()[:15])
                found = fcntl.ioctl(asking.fileno(), _SIOCGIFADDR, request)[20:24]
                if socket.inet_ntoa(found) == address:
                    return name
    return ""
