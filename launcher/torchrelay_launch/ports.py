"""Ports of this machine."""

import errno
import socket
from collections.abc import Iterable


def first_free(candidates: Iterable[int]) -> int | None:
    """The first of these ports that a server could listen on now; None if all are in use."""
    return next(filter(is_free, candidates), None)


def is_free(port: int) -> bool:
    """Whether a server could listen on this port of this machine now."""
    return not any(_taken(family, port) for family in (socket.AF_INET, socket.AF_INET6))


def _taken(family: socket.AddressFamily, port: int) -> bool:
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind(("", port))
    except OSError as error:
        return error.errno == errno.EADDRINUSE  # anything else: this machine has no such addresses
    return False
