"""The published advisories of Socket.IO, Engine.IO and websocket servers, each by its number against a real server.

Those that another file has: CVE-2026-48710 in test_page_requests.py, CVE-2025-61765 in test_no_code.py, and CVE-2022-21676 for
every reserved bit and opcode in tests/conformance/test_rfc6455.py.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.attacks.wire import open_websocket, sign_in
from tests.conformance.raw_websocket import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, RawWebsocket, encode
from tests.support.client import ChatClient
from tests.support.process import ServerProcess
from tests.support.raw_http import HOST, RawHttp, exchange

pytestmark = pytest.mark.asyncio

MEGABYTE = 1_000_000
QUICK = 8.0
"""Seconds in which others are served whatever the attacker does, and in which each parser is done: a machine may stand still for
two or three, and a parser that is quadratic takes longer than these."""

PROTOCOL_ERROR = 1002
INVALID_TEXT = 1007
MESSAGE_TOO_BIG = 1009


@pytest_asyncio.fixture(autouse=True)
async def bystander(chat_server: ServerProcess) -> AsyncIterator[None]:
    """Somebody else, who is there before the attack and is served after it."""
    async with ChatClient(chat_server.url, "bystander") as client:
        yield
        await client.send(client.user_id, "still served", timeout=QUICK)


async def assert_closed(websocket: RawWebsocket, *codes: int) -> None:
    close = await websocket.ended()
    assert close is None or close.close_code in codes, close


async def open_polling(server: ServerProcess) -> bytes:
    """The path and query of a new polling session."""
    answer = await exchange(server.url, b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n", HOST, b"\r\n")
    sid: str = json.loads(answer.body[1:])["sid"]
    return b"/socket.io/?EIO=4&transport=polling&sid=" + sid.encode()


async def status_of_get(server: ServerProcess, target: bytes) -> int:
    return (await exchange(server.url, b"GET ", target, b" HTTP/1.1\r\n", HOST, b"\r\n")).status


# -- handshakes and upgrades ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["__proto__", "constructor", "toString", "hasOwnProperty"])
@pytest.mark.parametrize("version", ["3", "4"])
async def test_cve_2023_31125_a_transport_named_as_a_property(
    chat_server: ServerProcess, transport: str, version: str
) -> None:
    target = f"/socket.io/?EIO={version}&transport={transport}".encode()
    answer = await exchange(chat_server.url, b"GET ", target, b" HTTP/1.1\r\n", HOST, b"\r\n")
    assert (answer.status, answer.body) == (400, b'{"code":0,"message":"Transport unknown"}')


def upgrade(target: bytes, *headers: bytes) -> bytes:
    key = base64.b64encode(os.urandom(16))
    lines = (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Version: 13", b"Sec-WebSocket-Key: " + key)
    return (
        b"GET " + target + b" HTTP/1.1\r\n" + HOST + b"".join(line + b"\r\n" for line in (*lines, *headers)) + b"\r\n"
    )


async def test_cve_2022_41940_a_reset_during_an_invalid_upgrade(chat_server: ServerProcess) -> None:
    session = await open_polling(chat_server)
    bad = (
        upgrade(b"/socket.io/?EIO=4&transport=websocket&sid=none"),
        upgrade(b"/socket.io/?EIO=3&transport=websocket"),
        upgrade(b"/nowhere"),
        upgrade(session.replace(b"polling", b"websocket"), b"Sec-WebSocket-Key: twice"),
        upgrade(session.replace(b"polling", b"websocket")),
    )
    for request in bad:
        for _ in range(20):
            async with RawHttp(chat_server.url) as http:  # which it leaves by a reset
                http.write(request)
    async with RawHttp(chat_server.url) as http:
        http.write(b"POST ", session, b" HTTP/1.1\r\n", HOST, b"Content-Length: 2\r\n\r\n40")
        assert (await http.response()).status == 200


@pytest.mark.parametrize("name", [b"X-%d", b"Sec-WebSocket-Protocol", b"Cookie"])
async def test_cve_2024_37890_thousands_of_headers_in_a_handshake(chat_server: ServerProcess, name: bytes) -> None:
    headers = [(name % number if b"%" in name else name) + b": x" for number in range(5_000)]
    async with RawHttp(chat_server.url) as http:
        http.write(upgrade(b"/socket.io/?EIO=4&transport=websocket", *headers))
        answer = await http.ended()
    assert not answer or b" 400 " in answer[:20]


@pytest.mark.parametrize("name", [b"Sec-WebSocket-Protocol", b"Sec-WebSocket-Extensions", b"Origin", b"Connection"])
async def test_cve_2021_32640_a_header_that_is_slow_to_split(chat_server: ServerProcess, name: bytes) -> None:
    begin = time.monotonic()
    async with RawHttp(chat_server.url) as http:
        http.write(upgrade(b"/socket.io/?EIO=4&transport=websocket", name + b": b" + b" " * 30_000 + b"x"))
        answer = await http.response(head=True)
        assert answer.status in (101, 400, 403)
    assert time.monotonic() - begin < QUICK


# -- HTTP bodies ----------------------------------------------------------------------------------------------------


async def test_cve_2026_59725_a_binary_post(chat_server: ServerProcess) -> None:
    session = await open_polling(chat_server)
    head = b" HTTP/1.1\r\n" + HOST + b"Content-Type: application/octet-stream\r\nContent-Length: 2\r\n\r\n"
    assert (await exchange(chat_server.url, b"POST ", session, head, b"40")).status == 400
    assert await status_of_get(chat_server, session) == 400


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("session", [False, True])
async def test_cve_2020_36048_and_cve_2026_48809_a_huge_post(
    chat_server: ServerProcess, chunked: bool, session: bool
) -> None:
    """Refused before it's buffered: the memory stays, and the server doesn't take what it will not use."""
    target = await open_polling(chat_server) if session else b"/socket.io/?EIO=4&transport=polling"
    framing = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: 200000000"
    piece = b"4" * 65_536
    chunk = b"10000\r\n" + piece + b"\r\n" if chunked else piece
    before = chat_server.rss()
    async with RawHttp(chat_server.url) as http:
        http.write(b"POST ", target, b" HTTP/1.1\r\n", HOST, framing, b"\r\n\r\n")
        sent = 0
        try:
            while sent < 200 * MEGABYTE and not http.reader.at_eof() and not http.writer.is_closing():
                http.write(chunk)
                sent += len(chunk)
                await asyncio.wait_for(http.writer.drain(), QUICK)
        except (ConnectionError, TimeoutError):
            pass
        answer = await http.ended()
    assert not answer or (b" 413 " if session else b" 400 ") in answer[:20]
    assert sent < 30 * MEGABYTE, "the server took it all"  # the system's buffers take some
    assert chat_server.rss() - before < 20 * MEGABYTE


ODD_LENGTHS = [
    b"+5", b"-5", b"5,5", b"5, 5", b"0x5", b"5 5", b"", b"5.0", b"5e0", b"five", b"\xb2", b"\xd9\xa5", b"9" * 30,
    b"18446744073709551621", b"5\r\nContent-Length: 6", b"6\r\nContent-Length: 5",
    b"5\r\nTransfer-Encoding: chunked", b"5\r\nTransfer-Encoding: identity", b"5\r\nTransfer-Encoding: xchunked",
    b"5\r\nTransfer-Encoding: \x0bchunked", b"5\r\nTransfer-Encoding : chunked", b"5\r\n Transfer-Encoding: chunked",
]  # fmt: skip


@pytest.mark.parametrize("length", ODD_LENGTHS, ids=repr)
async def test_cve_2026_53540_an_odd_content_length(chat_server: ServerProcess, length: bytes) -> None:
    """None of them may mean one thing to a proxy and another to us: what follows is never taken for a request."""
    smuggled = b"GET /health HTTP/1.1\r\n" + HOST + b"\r\n"
    for target in (await open_polling(chat_server), b"/health", b"/"):
        async with RawHttp(chat_server.url) as http:
            http.write(b"POST ", target, b" HTTP/1.1\r\n", HOST, b"Content-Length: ", length, b"\r\n\r\n")
            http.write(b"0\r\n\r\n", smuggled)
            answer = await http.ended()
        assert b'{"status":"ok"}' not in answer
        assert answer.count(b"HTTP/1.1 ") <= 1
        assert not answer or b" 400 " in answer[:20]


@pytest.mark.parametrize("target", ["session", "page"])
async def test_cve_2025_69229_endless_small_chunks(chat_server: ServerProcess, target: str) -> None:
    """A byte a chunk, as many as fit: linear work, and others are served meanwhile (see the fixture)."""
    path = await open_polling(chat_server) if target == "session" else b"/"
    async with RawHttp(chat_server.url) as http, ChatClient(chat_server.url, "meanwhile") as other:
        http.write(b"POST ", path, b" HTTP/1.1\r\n", HOST, b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(45):
            http.write(b"1\r\n4\r\n" * 20_000)
            await other.send(other.user_id, "meanwhile", timeout=QUICK)
        http.write(b"0\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n", HOST, b"\r\n")
        answer = await http.ended()
    if target == "session":
        assert answer.startswith(b"HTTP/1.1 400 ")
    else:  # nobody takes a body there, so the connection is ended
        assert not answer or answer.startswith(b"HTTP/1.1 405 ")
        assert answer.count(b"HTTP/1.1 ") <= 1


@pytest.mark.parametrize(
    "rest", [b"1;" + b"x" * 200_000, b"0\r\n" + b"".join(b"T-%d: y\r\n" % n for n in range(20_000))]
)
async def test_cve_2026_22815_endless_extensions_and_trailers(chat_server: ServerProcess, rest: bytes) -> None:
    session = await open_polling(chat_server)
    async with RawHttp(chat_server.url) as http:
        http.write(b"POST ", session, b" HTTP/1.1\r\n", HOST, b"Transfer-Encoding: chunked\r\n\r\n", rest)
        answer = await http.ended()
    assert not answer or b" 400 " in answer[:20]


# -- websocket frames -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reserved", [1, 2, 4, 7])
@pytest.mark.parametrize("payload", [b'40{"username":"mallory"}', b"3", b"4" * 100_000], ids=len)
async def test_cve_2022_21676_reserved_bits(chat_server: ServerProcess, reserved: int, payload: bytes) -> None:
    async with await open_websocket(chat_server) as websocket:
        websocket.write(encode(TEXT, payload, reserved=reserved))
        await assert_closed(websocket, PROTOCOL_ERROR)


async def test_cve_2026_48802_a_flood_of_pongs(chat_server: ServerProcess) -> None:
    async with await sign_in(chat_server) as websocket:
        before = chat_server.rss()
        websocket.write(encode(TEXT, b"3") * 100_000, encode(PONG, b"x" * 125) * 20_000, encode(PING, b"last"))
        assert await last_pong(websocket) == b"last"
        assert chat_server.rss() - before < 20 * MEGABYTE


async def last_pong(websocket: RawWebsocket) -> bytes | None:
    while (frame := await websocket.frame()) is not None:
        if frame.opcode == PONG:
            return frame.payload
    return None


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
async def test_cve_2026_42786_an_endless_continuation(chat_server: ServerProcess, opcode: int) -> None:
    async with await open_websocket(chat_server) as websocket:
        before = chat_server.rss()
        websocket.write(encode(opcode, b"4", fin=False), encode(CONTINUATION, b"x" * 60_000, fin=False) * 100)
        await assert_closed(websocket, PROTOCOL_ERROR, MESSAGE_TOO_BIG)
        assert chat_server.rss() - before < 20 * MEGABYTE


@pytest.mark.parametrize("content", [b"", b"x"])
async def test_cve_2026_48779_a_million_fragments(chat_server: ServerProcess, content: bytes) -> None:
    async with await open_websocket(chat_server) as websocket:
        before = chat_server.rss()
        websocket.write(encode(TEXT, b"4", fin=False), encode(CONTINUATION, content, fin=False) * 1_000_000)
        await assert_closed(websocket, PROTOCOL_ERROR)
        assert chat_server.rss() - before < 20 * MEGABYTE


@pytest.mark.parametrize("reason", [b"", b"x" * 123, b"\xff" * 10, "€".encode() * 41, b"\0" * 123, b"\xe2\x82"])
async def test_cve_2026_45736_close_reasons(chat_server: ServerProcess, reason: bytes) -> None:
    """Whatever the reason of the peer's close frame, the answer holds a code and no byte that the peer didn't send."""
    async with await open_websocket(chat_server) as websocket:
        websocket.write(encode(CLOSE, b"\x03\xe8" + reason))
        close = await websocket.ended()
        assert close is not None
        said = close.payload[2:]
        assert not said or said == reason or said.startswith(b"Received CLOSE with")
        assert close.close_code in (1000, PROTOCOL_ERROR, INVALID_TEXT)


# -- Socket.IO packets ----------------------------------------------------------------------------------------------

AFTER_CONNECT = {
    "cve_2026_33151 a million attachments": [b'451000000-["private message"]'],
    "cve_2026_33151 one more than the limit": [b'4565-["x"]'],
    "cve_2026_33151 as many as digits allow": [b"45" + b"9" * 500_000 + b'-["private message"]'],
    "cve_2026_69185 none announced, then one": [b'450-["private message",{"_placeholder":true,"num":0}]', (b"x",)],
    "cve_2026_69185 none announced, then many": [b'450-["x"]', *[(b"x",)] * 100],
    "cve_2022_2421 a placeholder that is a method": [b'451-["x",{"_placeholder":true,"num":"splice"}]', (b"x",)],
    "cve_2022_2421 a placeholder out of range": [b'451-["x",{"_placeholder":true,"num":9007199254740993}]', (b"x",)],
    "cve_2022_2421 a negative placeholder": [b'451-["x",{"_placeholder":true,"num":-1}]', (b"x",)],
    "cve_2022_2421 half a placeholder": [b'451-["x",{"_placeholder":true,"num":0.5}]', (b"x",)],
    "cve_2022_2421 a placeholder that is a list": [b'451-["x",{"_placeholder":true,"num":[0]}]', (b"x",)],
    "cve_2022_2421 one placeholder twice": [b'451-["x",' + b'{"_placeholder":true,"num":0},' * 2 + b"1]", (b"x",)],
    "cve_2023_32695 an event named by an object": [b'42[{"toString":"foo"}]'],
    "cve_2023_32695 an event named by an object, binary": [
        b'451-[{"toString":1},{"_placeholder":true,"num":0}]',
        (b"x",),
    ],
    "cve_2023_32695 an event named by a list": [b'42[["x"]]'],
    "cve_2024_38355 an event named error by an object": [b'42[{"name":"error"}]'],
    "cve_2024_38355 an event named null": [b"42[null]"],
    "cve_2024_38355 a reserved name": [b'42["disconnecting"]'],
    "cve_2020_36049 a megabyte of digits for an ack": [b"42" + b"1" * 900_000 + b'["x"]'],
    "cve_2020_36049 a megabyte of a namespace": [b"42/" + b"a" * 900_000 + b',["x"]'],
    "cve_2020_36049 a megabyte of digits for attachments": [b"45" + b"1" * 900_000 + b'-["x"]'],
    "cve_2020_36049 a megabyte of an event's name": [b'42["' + b"a" * 900_000 + b'"]'],
    "cve_2020_36049 a megabyte of backslashes": [b'42["' + b"\\\\" * 450_000 + b'"]'],
    "cve_2020_36049 a megabyte of lone surrogates": [b'42["x","' + b"\\ud800" * 150_000 + b'"'],
}


@pytest.mark.parametrize("packets", AFTER_CONNECT.values(), ids=AFTER_CONNECT)
async def test_a_packet(chat_server: ServerProcess, packets: list[bytes | tuple[bytes]]) -> None:
    async with await sign_in(chat_server) as websocket:
        begin = time.monotonic()
        for packet in packets:
            websocket.write(encode(BINARY, packet[0]) if isinstance(packet, tuple) else encode(TEXT, packet))
        while (frame := await websocket.frame()) is not None and frame.opcode != CLOSE:
            # An unknown event is refused, and the binary frame after it breaks the protocol.
            assert frame.payload == b"2" or frame.payload.startswith(b'42["refused",{"error":'), frame
        assert frame is None or frame.close_code == PROTOCOL_ERROR
        assert time.monotonic() - begin < QUICK


@pytest.mark.parametrize("packet", [encode(BINARY, b"x"), encode(BINARY, b""), encode(TEXT, b'451-["x"]')])
async def test_cve_2026_48804_binary_before_connect(chat_server: ServerProcess, packet: bytes) -> None:
    async with await open_websocket(chat_server) as websocket:
        websocket.write(packet, encode(BINARY, b"x" * 100_000))
        await assert_closed(websocket, PROTOCOL_ERROR)
