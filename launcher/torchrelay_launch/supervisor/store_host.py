"""Waiting until torchrun on node 0 listens, before torchrun on another node tries to reach it.

A client of torch's TCPStore that comes before its server tries again only after about half a second (0.33 to 0.63 s
with torch 2.15, 7 trials). The more nodes start at once, the surer one of them is early, and all wait for it, at every
start and restart of the gang.
"""

import asyncio
import socket
import time
from contextlib import suppress
from dataclasses import dataclass

PATIENCE_S = 60.0  # then torchrun tries by itself: it also says what is wrong
_CONNECT_S = 1.0
_FIRST_S, _LONGEST_S = 0.005, 0.05  # between two looks


@dataclass(frozen=True)
class StoreHost:
    """Where torchrun on node 0 serves its store."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"

    async def wait(self, patience_s: float = PATIENCE_S) -> bool:
        """Wait until something listens there. Returns whether it does now."""
        deadline, pause_s = time.monotonic() + patience_s, _FIRST_S
        while not await self._listens():
            if time.monotonic() > deadline:
                return False
            await asyncio.sleep(pause_s)
            pause_s = min(1.5 * pause_s, _LONGEST_S)
        return True

    async def _listens(self) -> bool:
        with suppress(OSError):  # TimeoutError is one
            # Not under the time limit: what is given up goes on in its thread, and there are few of them.
            found = await asyncio.get_running_loop().getaddrinfo(self.address, self.port, type=socket.SOCK_STREAM)
            for *_, address in found:
                with suppress(OSError):
                    opening = asyncio.open_connection(str(address[0]), self.port)
                    _, writer = await asyncio.wait_for(opening, _CONNECT_S)
                    writer.close()
                    await writer.wait_closed()
                    return True
        return False
