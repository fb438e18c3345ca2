"""Engine.IO v4: from long-polling to a websocket (protocol document, "Upgrade")."""

from __future__ import annotations

import asyncio

import pytest

from tests.conformance.peer import PATIENCE, Peer, Polling, Websocket

pytestmark = pytest.mark.asyncio


async def probe(session: Polling) -> Websocket:
    """A websocket beside the session whose probe was answered."""
    websocket = await session.peer.websocket(f"EIO=4&transport=websocket&sid={session.sid}")
    await websocket.send("2probe")
    assert await websocket.next() == "3probe"
    return websocket


async def upgraded(peer: Peer) -> tuple[Polling, Websocket]:
    session = await peer.open_polling()
    await session.connect()
    websocket = await probe(session)
    await websocket.send("5")
    await websocket.send('42["message","over"]')
    assert await websocket.next() == '42["message-back","over"]'
    return session, websocket


async def test_a_session_moves_to_the_websocket(peer: Peer) -> None:
    await upgraded(peer)


async def test_the_pending_poll_is_released_by_a_noop(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    async with session.pending_poll() as pending:
        websocket = await probe(session)
        answer = await asyncio.wait_for(pending, PATIENCE)
    assert (answer.status, answer.text) == (200, "6")
    await websocket.send("5")
    await websocket.send('42["message","over"]')
    assert await websocket.next() == '42["message-back","over"]'


async def test_a_poll_during_the_probe_is_released_by_a_noop(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    await probe(session)
    answer = await session.poll()
    assert (answer.status, answer.text) == (200, "6")


async def test_what_was_waiting_for_a_poll_arrives_once_and_in_order(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    await session.send(*(f'42["message",{number}]' for number in range(5)))
    websocket = await probe(session)
    polled: list[str] = []
    # What the server gives to polls until the upgrade is the client's; the rest comes by the websocket.
    while "6" not in polled:
        polled += (await session.poll()).packets
    await websocket.send("5")
    await websocket.send(*(f'42["message",{number}]' for number in range(5, 10)))
    seen = [packet for packet in polled if packet[0] == "4"]
    while len(seen) < 10:
        seen.append(await websocket.text())
    assert seen == [f'42["message-back",{number}]' for number in range(10)]


async def test_a_post_during_the_probe_still_counts(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    websocket = await probe(session)
    await session.send('42["message","by post"]')
    await websocket.send("5")
    seen = []
    async with asyncio.timeout(PATIENCE):
        while '42["message-back","by post"]' not in seen:
            seen.append(await websocket.next())


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_polling_requests_after_the_upgrade_are_refused(peer: Peer, method: str) -> None:
    session, websocket = await upgraded(peer)
    answer = await peer.request(method, session.query, '42["message","by the old way"]' if method == "POST" else None)
    assert answer.status == 400
    assert answer.json() == {"code": 3, "message": "Bad request"}
    await websocket.send('42["message","still here"]')
    assert await websocket.next() == '42["message-back","still here"]'


async def test_a_second_websocket_after_the_upgrade_is_closed(peer: Peer) -> None:
    session, websocket = await upgraded(peer)
    assert await peer.refused_websocket(f"EIO=4&transport=websocket&sid={session.sid}") in (400, None)
    await websocket.send('42["message","still here"]')
    assert await websocket.next() == '42["message-back","still here"]'


async def test_a_websocket_beside_a_websocket_session_is_closed(peer: Peer) -> None:
    websocket = await peer.websocket()
    opening = await websocket.text()
    await websocket.send("40")
    sid = opening.split('"sid":"')[1].split('"')[0]
    assert await peer.refused_websocket(f"EIO=4&transport=websocket&sid={sid}") in (400, None)


async def test_a_wrong_probe_harms_nobody_but_itself(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    websocket = await peer.websocket(f"EIO=4&transport=websocket&sid={session.sid}")
    await websocket.send("4hello")
    assert await websocket.closed() == []
    await session.send('42["message","still polling"]')
    assert await session.packets(1) == ['42["message-back","still polling"]']


async def test_a_probe_that_goes_away_leaves_the_session_polling(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    websocket = await probe(session)
    await websocket.close()
    await session.send('42["message","still polling"]')
    seen: list[str] = []
    async with asyncio.timeout(PATIENCE):
        while '42["message-back","still polling"]' not in seen:
            seen += [packet for packet in await session.packets(1) if packet != "6"]


async def test_heartbeats_go_on_after_the_upgrade(peer: Peer) -> None:
    _, websocket = await upgraded(peer)
    for _ in range(2):
        while await websocket.receive() != "2":
            pass
        await websocket.send("3")


async def test_binary_passes_after_the_upgrade(peer: Peer) -> None:
    _, websocket = await upgraded(peer)
    await websocket.send('451-["message",{"_placeholder":true,"num":0}]', b"\x00\xff")
    assert await websocket.next() == '451-["message-back",{"_placeholder":true,"num":0}]'
    assert await websocket.next() == b"\x00\xff"
