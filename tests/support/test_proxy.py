"""The proxy, where a test's verdict would hang on it."""

from __future__ import annotations

import asyncio
import socket

import pytest

from cluster.ports import HOST
from tests.support.proxy import Proxy

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("turns", range(8))
async def test_refusing_breaks_also_what_was_just_accepted(turns: int) -> None:
    """Between the system's accept and the proxy's own knowledge of a connection lie some turns of the loop."""
    target = await asyncio.start_server(lambda reader, writer: None, HOST, 0)
    async with target, Proxy(target.sockets[0].getsockname()[1]) as proxy:
        client = socket.create_connection((HOST, proxy.port))
        with client:
            for _ in range(turns):
                await asyncio.sleep(0)
            await proxy.refuse()
            client.setblocking(False)
            async with asyncio.timeout(5):
                try:
                    assert await asyncio.get_running_loop().sock_recv(client, 1) == b""
                except ConnectionError:
                    pass
