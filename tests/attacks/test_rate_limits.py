"""Row 31: who asks too often is told when to come again, and that is true; nobody else notices."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest

from tests.conformance.raw_websocket import RawWebsocket
from tests.conftest import StartServer, on_both
from tests.support.client import ChatClient, Refused
from tests.support.links import LinkFailed
from tests.support.process import ServerProcess
from tests.support.raw_http import HOST, Response, exchange

pytestmark = [pytest.mark.asyncio, on_both]

POLLING = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n" + HOST + b"\r\n"
OTHER_ADDRESS = "127.0.0.2"
BURST = 10
RATE = 0.25
"""A second; so slow that no token comes back while a test is not looking, and not 0.2: after 5 s the server closes a connection
that nobody uses, and a request that is on its way then is lost."""


async def spent(client: ChatClient, *others: ChatClient) -> list[Refused]:
    """Spend everything that the user has, over all their sockets in turn; the refusals of twice as many sends."""
    clients = [client, *others]
    sends = [clients[number % len(clients)].send(client.user_id, "x") for number in range(2 * BURST)]
    outcomes = await asyncio.gather(*sends, return_exceptions=True)
    refusals = [outcome for outcome in outcomes if isinstance(outcome, Refused)]
    assert len(outcomes) - len(refusals) in (BURST, BURST + 1)
    return refusals


async def test_a_users_sockets_share_one_allowance_and_the_wait_is_true(start_server: StartServer) -> None:
    server = start_server("--message-rate", str(RATE), "--message-burst", str(BURST))
    async with ChatClient(server.url, "mallory") as first, ChatClient(server.url, "bob") as bystander:
        second = ChatClient(server.url, "mallory", session_id=first.session_id)
        third = ChatClient(server.url, "mallory", session_id=first.session_id, transport="polling")
        async with second, third:
            for refusal in await spent(first, second, third):
                assert refusal.code == "rate limited"
                assert 0 < refusal.answer["retryAfter"] <= 1 / RATE
            with pytest.raises(Refused) as refused:
                await second.request("typing", {"to": first.user_id})
            await bystander.send(first.user_id, "I am none of them")
            await asyncio.sleep(refused.value.answer["retryAfter"])
            await third.send(first.user_id, "as told")
            with pytest.raises(Refused, match="rate limited"):
                await first.send(first.user_id, "too early again")


async def test_a_guest_of_the_guides_form_is_told_by_an_event(start_server: StartServer) -> None:
    server = start_server("--message-rate", str(RATE), "--message-burst", "1")
    async with ChatClient(server.url, "mallory", guide=True) as mallory:
        mallory.say(mallory.user_id, "one")
        mallory.say(mallory.user_id, "two")
        (told,) = await mallory.wait_for_event("refused")
        assert (told["event"], told["error"]) == ("private message", "rate limited")
        await asyncio.sleep(told["retryAfter"])
        await mallory.send(mallory.user_id, "three")


EVENTS: dict[str, dict[str, object]] = {
    "private message": {"to": "", "content": "x"},
    "history": {"with": ""},
    "sync": {"since": None, "next": "0"},
    "directory": {},
    "watch": {"users": [""]},
    "read": {"with": "", "seq": 0},
    "received": {"with": "", "seq": 0},
    "typing": {"to": ""},
    "no event": {},
}


@pytest.mark.parametrize("more", [{}, {"unknown": True}], ids=["typed", "general"])
async def test_every_event_costs(start_server: StartServer, more: dict[str, bool]) -> None:
    """Also by the way for arguments that are not quite as expected."""
    server = start_server("--message-rate", "0.001", "--message-burst", "3")
    for event, argument in EVENTS.items():
        async with ChatClient(server.url, f"fond of {event}") as mallory:
            codes = []
            for _ in range(4):
                try:
                    await mallory.request(event, {**argument, **more})
                except Refused as refused:
                    codes.append(refused.code)
            assert (codes[-1:], codes.count("rate limited")) == (["rate limited"], 1), event


async def websocket_status(server: ServerProcess) -> int:
    websocket, status = await RawWebsocket.handshake(server.url)
    await websocket.close()
    return status


def assert_told_to_wait(answer: Response) -> int:
    assert answer.status == 429
    assert json.loads(answer.body) == {"code": 4, "message": "Too many connections"}
    seconds = int(answer.headers["retry-after"])
    assert seconds >= 1
    return seconds


async def test_connections_of_one_address(start_server: StartServer) -> None:
    server = start_server("--connect-rate", str(RATE), "--connect-burst", "4")
    assert [(await exchange(server.url, POLLING)).status for _ in range(2)] == [200, 200]
    assert [await websocket_status(server) for _ in range(2)] == [101, 101]
    seconds = assert_told_to_wait(await exchange(server.url, POLLING))
    assert await websocket_status(server) == 429
    with pytest.raises(LinkFailed):
        await ChatClient(server.url, "mallory").connect()
    elsewhere = aiohttp.TCPConnector(local_addr=(OTHER_ADDRESS, 0))
    async with (
        aiohttp.ClientSession(connector=elsewhere) as other,
        other.get(f"{server.url}/socket.io/?EIO=4&transport=polling") as answer,
    ):
        assert answer.status == 200
    await asyncio.sleep(seconds)
    assert await websocket_status(server) == 101
    assert_told_to_wait(await exchange(server.url, POLLING))


async def test_refused_connections_cost_no_more_than_an_answer(start_server: StartServer) -> None:
    """Thousands of refusals: no session, no descriptor and no line in the log stays of them."""
    server = start_server("--connect-rate", "0.001", "--connect-burst", "1")
    async with ChatClient(server.url, "alice") as alice:
        before = server.descriptors()
        for _ in range(20):
            statuses = await asyncio.gather(*(websocket_status(server) for _ in range(100)))
            assert set(statuses) == {429}
        await alice.send(alice.user_id, "still here", timeout=10)
        assert server.descriptors() <= before + 5
        assert len(server.log()) < 60
