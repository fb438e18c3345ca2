"""F30: the stock client moves from polling to a websocket in mid-conversation, and loses its polling session; the checker
judges what it sent and saw."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import StartServer, on_both
from tests.interop.conftest import StartPuppet
from tests.interop.recorded import Recorded
from tests.promises.judge import judge
from tests.support.client import ChatClient
from tests.support.proxy import Proxy
from tests.support.raw_http import HOST, RawHttp
from tests.support.record import Record

pytestmark = [pytest.mark.asyncio, on_both]

UNDER_WAY = 8
"""Messages that each side has in flight."""

BEFORE = 50
"""The seq, of both sides together, that is reached by polling."""

AFTERWARDS = 100
"""Messages of each side after the move."""


async def talk(send: Any, to: str, who: str, until: asyncio.Event) -> None:
    """Keep messages under way until told, and then some more."""
    number = 0

    async def one() -> None:
        nonlocal number
        left = AFTERWARDS // UNDER_WAY
        while left:
            if until.is_set():
                left -= 1
            number += 1
            await send(to, f"{who} {number}")

    await asyncio.gather(*(one() for _ in range(UNDER_WAY)))


async def test_moving_to_the_websocket_while_both_sides_talk(
    start_server: StartServer, start_puppet: StartPuppet
) -> None:
    server = start_server()
    record = Record()
    async with Proxy(server.port) as proxy, ChatClient(server.url, "bob", record) as bob:
        puppet = Recorded(await start_puppet(), record)
        # The stock client begins with polling and upgrades by itself, here as soon as the wire lets its websocket through.
        proxy.to_server.hold_before = b"Upgrade: websocket"
        await puppet.connect(proxy.url)
        moved = asyncio.Event()
        talking = asyncio.gather(
            talk(puppet.send, bob.user_id, "the puppet says", moved), talk(bob.send, puppet.user_id, "bob says", moved)
        )
        await puppet.puppet.wait_for("private message", lambda args: args[0]["seq"] > BEFORE)
        proxy.to_server.release()
        assert await puppet.puppet.wait_for("@upgrade") == ["websocket"]
        moved.set()
        await talking
        await bob.send(puppet.user_id, "the end")
        await puppet.puppet.wait_for("private message", lambda args: args[0]["content"] == "the end")
        assert not puppet.puppet.args_of("@disconnect")
        puppet.note_what_it_saw()
        await judge(record, bob)


@pytest.mark.parametrize("loss", ["two polls at once", "a restart"])
async def test_a_lost_polling_session_is_begun_anew(
    start_server: StartServer, start_puppet: StartPuppet, loss: str
) -> None:
    """The session is closed, whoever asks for it gets 400, and the client comes back by itself, as the same user."""
    server = start_server()
    record = Record()
    async with ChatClient(server.url, "bob", record) as bob:
        puppet = Recorded(await start_puppet(), record)
        await puppet.connect(server.url, transports=["polling"])
        await puppet.send(bob.user_id, "before")
        await bob.send(puppet.user_id, "before as well")
        sid = await puppet.puppet.order("sid")
        mark = puppet.puppet.mark()
        if loss == "a restart":
            await asyncio.to_thread(server.restart)
            await bob.wait_ended()
            await bob.connect_surely()
        request = b"GET /socket.io/?EIO=4&transport=polling&sid=" + sid.encode() + b" HTTP/1.1\r\n" + HOST + b"\r\n"
        async with RawHttp(server.url) as http:
            http.write(request)
            first = await http.response()
            # Of two polls at once the one that came second gets the error; the other one is told of the end.
            assert first.status == 400 or (first.status, first.body) == (200, b"1")
            http.write(request)
            assert (await http.response()).status == 400
        await puppet.puppet.wait_for("@disconnect", since=mark)
        (session,) = await puppet.puppet.wait_for("session", since=mark)
        assert session["userID"] == puppet.user_id
        await puppet.send(bob.user_id, "after")
        await bob.wait_for_message("after")
        await bob.send(puppet.user_id, "the end")
        await puppet.puppet.wait_for("private message", lambda args: args[0]["content"] == "the end")
        puppet.note_what_it_saw()
        assert len(await judge(record, bob)) == 4
