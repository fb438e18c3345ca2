"""Engine.IO v4: messages, payloads, heartbeats and the end of a session (protocol document, "Packet encoding", "Heartbeat").

The echo server speaks Socket.IO, so an Engine.IO message is shown by a Socket.IO event inside it.
"""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.conformance.peer import MAX_PAYLOAD, PATIENCE, PING, PING_INTERVAL, PING_TIMEOUT, PONG, SEPARATOR, Peer

pytestmark = pytest.mark.asyncio

EARLY = 0.05
"""Seconds by which something may come before its time: the server's timers tick."""


# -- messages by polling --------------------------------------------------------------------------------------------


async def test_polling_carries_a_message_there_and_back(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    answer = await session.post('42["message","hello"]')
    assert (answer.status, answer.text) == (200, "ok")
    assert await session.packets(1) == ['42["message-back","hello"]']


async def test_polling_carries_several_packets_in_one_payload(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    await session.send('42["message",1]', '42["message",2]', '42["message",3]')
    assert await session.packets(3) == [f'42["message-back",{number}]' for number in (1, 2, 3)]


@pytest.mark.parametrize("count", [16, 17, 100, 1_000])
async def test_a_long_payload_is_processed_or_refused_but_never_dropped(peer: Peer, count: int) -> None:
    session = await peer.open_polling()
    await session.connect()
    answer = await session.post(SEPARATOR.join(f'42["message",{number}]' for number in range(count)))
    if answer.status == 200:
        assert await session.packets(count) == [f'42["message-back",{number}]' for number in range(count)]
    else:
        assert answer.status in (400, 413)


async def test_polling_carries_text_in_utf_8(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    answer = await session.post('42["message","grüße 🦜"]'.encode(), {"Content-Type": "text/plain;charset=UTF-8"})
    assert answer.status == 200
    assert await session.packets(1) == ['42["message-back","grüße 🦜"]']


async def test_polling_carries_binary_in_base64(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    await session.send('451-["message",{"_placeholder":true,"num":0}]', "bAQIDBA==")
    assert await session.packets(2) == ['451-["message-back",{"_placeholder":true,"num":0}]', "bAQIDBA=="]


async def test_an_invalid_payload_ends_the_session(peer: Peer) -> None:
    session = await peer.open_polling()
    answer = await session.post("abc")
    assert answer.status in (200, 400)  # the reference has said "ok" before it looks into the packet
    assert await session.is_over()


@pytest.mark.parametrize("payload", ["", "7", "4", SEPARATOR, "9", "x", f"2{SEPARATOR}"])
async def test_an_invalid_packet_ends_the_session(peer: Peer, payload: str) -> None:
    session = await peer.open_polling()
    await session.post(payload)
    assert await session.is_over()


async def test_a_payload_over_the_limit_is_refused(peer: Peer) -> None:
    session = await peer.open_polling()
    assert (await session.post("4" * (MAX_PAYLOAD + 1))).status == 413


async def test_two_polls_at_once_end_the_session(peer: Peer) -> None:
    session = await peer.open_polling()
    async with session.pending_poll() as first:
        second = await session.poll()
        answer = await asyncio.wait_for(first, PATIENCE)
    assert (answer.status, answer.text) == (200, "1")
    assert second.status in (400, 500)
    assert await session.is_over()


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_a_session_takes_get_and_post_only(peer: Peer, method: str) -> None:
    session = await peer.open_polling()
    assert (await peer.request(method, session.query)).status in (400, 405, 500)


# -- messages by websocket ------------------------------------------------------------------------------------------


async def test_a_websocket_carries_a_message_there_and_back(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send('42["message","hello"]')
    assert await websocket.next() == '42["message-back","hello"]'


async def test_a_websocket_carries_binary_as_it_is(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send('451-["message",{"_placeholder":true,"num":0}]', bytes([1, 2, 3, 4]))
    assert await websocket.next() == '451-["message-back",{"_placeholder":true,"num":0}]'
    assert await websocket.next() == bytes([1, 2, 3, 4])


@pytest.mark.parametrize("packet", ["abc", "", "7", "9x"])
async def test_an_invalid_packet_closes_the_websocket(peer: Peer, packet: str) -> None:
    websocket = await peer.open_websocket()
    await websocket.send(packet)
    assert await websocket.closed() == []


async def test_a_frame_of_the_greatest_size_passes(peer: Peer) -> None:
    websocket = await peer.connect()
    filler = "x" * (MAX_PAYLOAD - len('42["message",""]'))
    await websocket.send(f'42["message","{filler}"]')
    assert await websocket.next() == f'42["message-back","{filler}"]'


async def test_a_frame_over_the_limit_closes_the_websocket(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send("4" * (MAX_PAYLOAD + 1))
    assert await websocket.closed() == []


# -- heartbeat ------------------------------------------------------------------------------------------------------


async def test_polling_has_heartbeats(peer: Peer) -> None:
    before = time.monotonic()
    session = await peer.open_polling()
    await session.connect()
    for count in (1, 2, 3):
        answer = await session.poll()
        assert (answer.status, answer.text) == (200, PING)
        assert time.monotonic() - before > count * PING_INTERVAL - EARLY
        await session.send(PONG)


async def test_a_websocket_has_heartbeats(peer: Peer) -> None:
    before = time.monotonic()
    websocket = await peer.connect()
    for count in (1, 2, 3):
        assert await websocket.receive() == PING
        assert time.monotonic() - before > count * PING_INTERVAL - EARLY
        await websocket.send(PONG)


async def test_polling_without_heartbeats_ends_the_session(peer: Peer) -> None:
    session = await peer.open_polling()
    async with asyncio.timeout(PATIENCE):
        answer = await session.poll()
        assert (answer.status, answer.text) == (200, PING)
        # The next poll is answered when the session ends, for nothing else can happen: the pong is withheld.
        await session.poll()
    assert await session.is_over()


async def test_a_websocket_without_heartbeats_is_closed(peer: Peer) -> None:
    before = time.monotonic()
    websocket = await peer.connect()
    assert await websocket.closed(answering=False) == [PING]
    assert time.monotonic() - before > PING_TIMEOUT


async def test_a_second_pong_is_no_error(peer: Peer) -> None:
    websocket = await peer.connect()
    assert await websocket.receive() == PING
    await websocket.send(PONG)
    await websocket.send('42["message",1]')
    assert await websocket.next() == '42["message-back",1]'


# -- close ----------------------------------------------------------------------------------------------------------


async def test_polling_closes_on_request(peer: Peer) -> None:
    session = await peer.open_polling()
    async with session.pending_poll() as pending:
        await session.send("1")
        answer = await asyncio.wait_for(pending, PATIENCE)
    assert (answer.status, answer.text) == (200, "6")
    assert await session.is_over()


async def test_a_websocket_closes_on_request(peer: Peer) -> None:
    websocket = await peer.open_websocket()
    await websocket.send("1")
    assert await websocket.closed() == []


async def test_a_closed_websocket_session_is_unknown(peer: Peer) -> None:
    websocket = await peer.websocket()
    opening = await websocket.text()
    sid = opening.split('"sid":"')[1].split('"')[0]
    await websocket.send("1")
    await websocket.closed()
    answer = await peer.request(query=f"EIO=4&transport=polling&sid={sid}")
    assert answer.status == 400
    assert answer.json() == {"code": 1, "message": "Session ID unknown"}


async def test_a_session_that_never_connects_is_closed(peer: Peer) -> None:
    """Connect time-out: an Engine.IO session without a Socket.IO handshake ends after a second."""
    before = time.monotonic()
    websocket = await peer.open_websocket()
    assert await websocket.closed() == []
    assert 1.0 - EARLY < time.monotonic() - before < PATIENCE
