"""Socket.IO v5: every malformed packet closes the connection, and nobody else notices."""

from __future__ import annotations

import pytest

from tests.conformance.peer import Peer

pytestmark = pytest.mark.asyncio

BEFORE_CONNECT = {
    "no packet": ["4abc"],
    "an event": ['42["message",1]'],
    "an ack": ["431[]"],
    "a payload that is no object": ['40"text"'],
    "a payload that is a list": ["40[1]"],
    "a payload that is no JSON": ["40{"],
    "binary": [b"\x01\x02"],
}

AFTER_CONNECT = {
    "an empty message": ["4"],
    "a type out of range": ["47"],
    "a type that is no digit": ["4x"],
    "an event that is an object": ["42{}"],
    "an event without a name": ["42[]"],
    "an event named by an object": ["42[{}]"],
    "an event named by null": ["42[null]"],
    "an event that is no JSON": ['42["message",'],
    "an event followed by rubbish": ['42["message",1]x'],
    "a name that is reserved": ['42["connect"]'],
    "another name that is reserved": ['42["disconnect"]'],
    "an ack that is no list": ["431{}"],
    "attachments without a number": ['45["message"]'],
    "attachments that are no number": ['45x-["message"]'],
    "attachments without a dash": ['451["message",{"_placeholder":true,"num":0}]'],
    "a placeholder out of range": ['451-["message",{"_placeholder":true,"num":1}]', b"\x00"],
    "a negative placeholder": ['451-["message",{"_placeholder":true,"num":-1}]', b"\x00"],
    "a placeholder that is no number": ['451-["message",{"_placeholder":true,"num":"splice"}]', b"\x00"],
    "binary without an announcement": [b"\x00\x01"],
    "text where an attachment is due": ['451-["message",{"_placeholder":true,"num":0}]', '42["message",1]'],
    "a disconnect with data": ["41{}"],
}

STRICTER = {
    "an event without data": ["42"],
    "an ack id of 30 digits": ["42" + "9" * 30 + '["message-with-ack"]'],
    "a million attachments": ['451000000-["message"]'],
    "nested 100,000 deep": ["42" + '["message",' + "[" * 100_000 + "]" * 100_000 + "]"],
    "a number that is none": ['42["message",NaN]'],
}
"""What the reference lets pass or doesn't limit in the same way; ours must not harm itself by it."""


@pytest.mark.parametrize("packets", BEFORE_CONNECT.values(), ids=BEFORE_CONNECT)
async def test_a_wrong_start_closes_the_connection(peer: Peer, packets: list[str | bytes]) -> None:
    websocket = await peer.open_websocket()
    await websocket.send(*packets)
    assert await websocket.closed() == []


@pytest.mark.parametrize("packets", AFTER_CONNECT.values(), ids=AFTER_CONNECT)
async def test_a_malformed_packet_closes_the_connection(peer: Peer, packets: list[str | bytes]) -> None:
    bystander = await peer.connect()
    websocket = await peer.connect()
    await websocket.send(*packets)
    assert await websocket.closed() == []
    await bystander.send('42["message",1]')
    assert await bystander.next() == '42["message-back",1]'


@pytest.mark.parametrize("packets", STRICTER.values(), ids=STRICTER)
async def test_an_excess_closes_the_connection_or_is_answered(peer: Peer, packets: list[str | bytes]) -> None:
    bystander = await peer.connect()
    websocket = await peer.connect()
    await websocket.send(*packets)
    await bystander.send('42["message",1]')
    assert await bystander.next() == '42["message-back",1]'
    for packet in await websocket.closed(answering=False):
        assert packet == "2" or str(packet)[:2] in ("42", "43"), packet


async def test_a_malformed_packet_ends_a_polling_session(peer: Peer) -> None:
    session = await peer.open_polling()
    await session.connect()
    await session.post('42["message",')
    assert await session.is_over()


async def test_invalid_base64_does_not_pass_as_an_attachment(peer: Peer) -> None:
    """Stricter than the reference, which drops the characters that it doesn't know."""
    session = await peer.open_polling()
    await session.connect()
    await session.post('451-["message",{"_placeholder":true,"num":0}]\x1eb*not*base64*')
    assert await session.is_over()
