"""Waiting until torchrun on node 0 listens."""

import asyncio

from torchrelay_launch.ports import first_free
from torchrelay_launch.supervisor.store_host import StoreHost


def free_port() -> int:
    port = first_free(range(19000, 20000))
    assert port is not None
    return port


def test_it_returns_once_somebody_listens() -> None:
    async def scenario() -> tuple[bool, bool]:
        host = StoreHost("127.0.0.1", free_port())
        waiting = asyncio.create_task(host.wait())
        await asyncio.sleep(0.2)
        early = waiting.done()
        server = await asyncio.start_server(lambda _reader, writer: writer.close(), host.address, host.port)
        found = await asyncio.wait_for(waiting, 10.0)
        server.close()
        await server.wait_closed()
        return early, found

    assert asyncio.run(scenario()) == (False, True)


def test_it_gives_up_so_that_torchrun_can_say_what_is_wrong() -> None:
    assert not asyncio.run(StoreHost("127.0.0.1", free_port()).wait(0.1))


def test_a_name_that_means_nothing_is_no_error_here() -> None:
    assert not asyncio.run(StoreHost("nobody.invalid", 1).wait(0.1))
