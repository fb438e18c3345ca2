"""Socket.IO v5: namespaces, events, acks and attachments (protocol document, "Exchange protocol" and "Packet encoding")."""

from __future__ import annotations

import json

import pytest

from tests.conformance.peer import Peer
from tests.conformance.raw_websocket import TEXT, RawWebsocket, encode
from tests.support.process import ServerProcess

pytestmark = pytest.mark.asyncio


# -- connect --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("namespace", ["", "/custom,"])
@pytest.mark.parametrize("payload", ["", '{"token":"123"}', '{"a":{"b":[1,null,"é"]}}'])
async def test_a_namespace_is_joined_with_or_without_a_payload(peer: Peer, namespace: str, payload: str) -> None:
    websocket = await peer.open_websocket()
    await websocket.send(f"40{namespace}{payload}")
    answer = await websocket.text()
    assert answer.startswith(f"40{namespace}")
    handshake = json.loads(answer.removeprefix(f"40{namespace}"))
    assert set(handshake) == {"sid"}
    assert isinstance(handshake["sid"], str)
    assert await websocket.next() == f'42{namespace}["auth",{payload or "{}"}]'


async def test_what_follows_the_connect_can_be_awaited_after_it(echo_server: ServerProcess) -> None:
    """The public suite listens for `auth` only once it has seen the CONNECT, and would miss one that came in the same
    read. A machine that stops for a moment joins the two, but not every time."""
    for _ in range(10):
        async with await RawWebsocket.open(echo_server.url) as websocket:
            await websocket.frame()
            websocket.write(encode(TEXT, b"40"))
            if b'"auth"' not in await websocket.chunk():
                assert await websocket.message() == b'42["auth",{}]'
                return
    pytest.fail("CONNECT and the event after it always come together")


async def test_the_first_event_is_auth_even_for_a_client_that_writes_at_once(peer: Peer) -> None:
    websocket = await peer.open_websocket()
    await websocket.send("40", '42["message",1]')
    assert (await websocket.text()).startswith("40{")
    assert await websocket.next() == '42["auth",{}]'
    assert await websocket.next() == '42["message-back",1]'


async def test_the_socket_id_is_not_the_session_id(peer: Peer) -> None:
    """The session id is the key to the connection; the socket id is told to others."""
    websocket = await peer.websocket()
    session = json.loads((await websocket.text())[1:])["sid"]
    await websocket.send("40")
    assert json.loads((await websocket.text())[2:])["sid"] != session


async def test_a_namespace_without_a_comma_is_joined(peer: Peer) -> None:
    websocket = await peer.open_websocket()
    await websocket.send("40/custom")
    assert (await websocket.text()).startswith('40/custom,{"sid":')


async def test_an_unknown_namespace_is_refused(peer: Peer) -> None:
    websocket = await peer.open_websocket()
    await websocket.send("40/random")
    assert await websocket.next() == '44/random,{"message":"Invalid namespace"}'


async def test_a_refused_namespace_leaves_the_others(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send("40/random,", '42["message",1]')
    assert await websocket.next() == '44/random,{"message":"Invalid namespace"}'
    assert await websocket.next() == '42["message-back",1]'


async def test_two_namespaces_share_a_connection(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send("40/custom,")
    assert (await websocket.text()).startswith("40/custom,")
    assert await websocket.next() == '42/custom,["auth",{}]'
    await websocket.send('42/custom,["message",1]', '42["message",2]', '42/custom,["message",3]')
    assert [await websocket.next() for _ in range(3)] == [
        '42/custom,["message-back",1]',
        '42["message-back",2]',
        '42/custom,["message-back",3]',
    ]


# -- disconnect -----------------------------------------------------------------------------------------------------


async def test_leaving_one_namespace_leaves_the_other(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send("40/custom")
    assert (await websocket.text()).startswith("40/custom,")
    assert await websocket.next() == '42/custom,["auth",{}]'
    await websocket.send("41/custom", '42["message","message to main namespace"]')
    assert await websocket.next() == '42["message-back","message to main namespace"]'


async def test_a_namespace_can_be_joined_again(peer: Peer) -> None:
    websocket = await peer.connect()
    for _ in range(3):
        await websocket.send("40/custom,")
        assert (await websocket.text()).startswith("40/custom,")
        assert await websocket.next() == '42/custom,["auth",{}]'
        await websocket.send("41/custom,", '42["message","left"]')
        assert await websocket.next() == '42["message-back","left"]'


# -- events ---------------------------------------------------------------------------------------------------------


ARGUMENTS = {
    "none": "",
    "mixed": ',1,"2",{"3":[true]}',
    "nested": ',[[],{},[{"a":[null]}]]',
    "text": ',"grüße 🦜 \\u0001 \\\\ \\""',
    "numbers": ",0,-1,1.5,1e3,123456789012",
    "an object that looks like a placeholder": ',{"_placeholder":false}',
}


@pytest.mark.parametrize("arguments", ARGUMENTS.values(), ids=ARGUMENTS)
async def test_an_event_comes_back_with_its_arguments(peer: Peer, arguments: str) -> None:
    websocket = await peer.connect()
    await websocket.send(f'42["message"{arguments}]')
    answer = await websocket.text()
    assert answer.startswith('42["message-back"')
    assert json.loads(answer[2:])[1:] == json.loads(f'["message"{arguments}]')[1:]


async def test_events_come_back_in_order(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send(*(f'42["message",{number}]' for number in range(500)))
    assert [await websocket.next() for _ in range(500)] == [f'42["message-back",{number}]' for number in range(500)]


@pytest.mark.parametrize("ack_id", ["0", "456", "2147483648"])
async def test_an_event_with_an_ack(peer: Peer, ack_id: str) -> None:
    websocket = await peer.connect()
    await websocket.send(f'42{ack_id}["message-with-ack",1,"2",{{"3":[false]}}]')
    assert await websocket.next() == f'43{ack_id}[1,"2",{{"3":[false]}}]'


async def test_an_ack_without_arguments(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send('4212["message-with-ack"]')
    assert await websocket.next() == "4312[]"


async def test_an_ack_of_a_custom_namespace(peer: Peer) -> None:
    websocket = await peer.connect("/custom,")
    await websocket.send('42/custom,7["message-with-ack","x"]')
    assert await websocket.next() == '43/custom,7["x"]'


async def test_an_unknown_event_is_no_error(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send('42["nobody listens"]', '42["__proto__",1]', '42["constructor"]', '42["message",1]')
    assert await websocket.next() == '42["message-back",1]'


# -- attachments ----------------------------------------------------------------------------------------------------


async def test_an_event_with_attachments(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send(
        '452-["message",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]', b"\x01\x02\x03", b"\x04\x05\x06"
    )
    assert await websocket.next() == '452-["message-back",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    assert [await websocket.next(), await websocket.next()] == [b"\x01\x02\x03", b"\x04\x05\x06"]


async def test_an_ack_with_attachments(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send(
        '452-789["message-with-ack",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]',
        b"\x01\x02\x03",
        b"\x04\x05\x06",
    )
    assert await websocket.next() == '462-789[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]'
    assert [await websocket.next(), await websocket.next()] == [b"\x01\x02\x03", b"\x04\x05\x06"]


async def test_attachments_may_be_anywhere_and_empty(peer: Peer) -> None:
    websocket = await peer.connect()
    await websocket.send('451-["message",{"deep":[{"_placeholder":true,"num":0}]}]', b"")
    assert await websocket.next() == '451-["message-back",{"deep":[{"_placeholder":true,"num":0}]}]'
    assert await websocket.next() == b""


async def test_attachments_of_a_custom_namespace(peer: Peer) -> None:
    websocket = await peer.connect("/custom,")
    await websocket.send('451-/custom,["message",{"_placeholder":true,"num":0}]', b"\x00")
    assert await websocket.next() == '451-/custom,["message-back",{"_placeholder":true,"num":0}]'
    assert await websocket.next() == b"\x00"
