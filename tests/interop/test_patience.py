"""The stock client's own patience: retries that come before the answers (F29), and a server that stalls (F7)."""

from __future__ import annotations

import asyncio

import pytest

from tests.conftest import StartServer, on_both
from tests.interop.conftest import StartPuppet
from tests.interop.recorded import Recorded
from tests.promises.judge import judge
from tests.support.client import ChatClient
from tests.support.proxy import Proxy
from tests.support.record import Record

pytestmark = pytest.mark.asyncio


@on_both
async def test_retries_faster_than_the_answers(start_server: StartServer, start_puppet: StartPuppet) -> None:
    """Its `ackTimeout` is below the wire's latency: it says everything four times and hears no ack in time."""
    server = start_server()
    record = Record()
    async with Proxy(server.port) as proxy, ChatClient(server.url, "bob", record) as bob:
        puppet = Recorded(await start_puppet(), record)
        await puppet.connect(proxy.url, transports=["websocket"], retries=3, ackTimeout=50)
        proxy.to_client.delay = 0.2
        texts = [f"impatient {number}" for number in range(10)]
        for text in texts:
            await puppet.emit(bob.user_id, text)
        await bob.wait_for_message(texts[-1])
        proxy.heal()
        await puppet.emit(bob.user_id, "the end")
        await bob.wait_for_message("the end")
        assert [message.content for message in await judge(record, bob)] == [*texts, "the end"]


async def stall(start_server: StartServer, start_puppet: StartPuppet, seconds: float) -> None:
    """The client finds out by the heartbeat that isn't there, comes back by itself, and its retries make nothing twice."""
    server = start_server("--ping-interval", "0.5", "--ping-timeout", "2")
    record = Record()
    async with ChatClient(server.url, "bob", record) as bob:
        puppet = Recorded(await start_puppet(), record)
        await puppet.connect(server.url, retries=1_000, ackTimeout=300)
        await puppet.send(bob.user_id, "before")
        mark = puppet.puppet.mark()
        server.suspend()
        await puppet.emit(bob.user_id, "meanwhile")
        await puppet.puppet.wait_for("@disconnect", lambda args: args == ["ping timeout"], since=mark)
        await asyncio.sleep(seconds)  # how long it stalls is the fault itself
        server.resume()
        await puppet.puppet.wait_for("session", lambda args: args[0]["userID"] == puppet.user_id, since=mark)
        await puppet.send(bob.user_id, "after")
        if not bob.connected:
            await bob.connect_surely()
        await bob.wait_for_message("after")
        assert [message.content for message in await judge(record, bob)] == ["before", "meanwhile", "after"]


@on_both
async def test_a_stalled_server(start_server: StartServer, start_puppet: StartPuppet) -> None:
    await stall(start_server, start_puppet, 0)


@on_both
@pytest.mark.torture
async def test_a_server_that_stalls_for_forty_seconds(start_server: StartServer, start_puppet: StartPuppet) -> None:
    await stall(start_server, start_puppet, 40)
