"""Row 34 against a real server: peers can neither write into its log nor fill it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

import pytest

from tests.attacks.wire import open_websocket, sign_in
from tests.conformance.raw_websocket import TEXT, RawWebsocket, encode
from tests.conftest import StartServer, on_both
from tests.support.client import ChatClient, Refused
from tests.support.process import ServerProcess
from tests.support.raw_http import HOST, RawHttp, exchange

pytestmark = pytest.mark.asyncio

TIMES = 2_000
AT_ONCE = 50
MOST_LINES = 150
"""Three kinds of lines at most come of any of these attacks."""


async def repeat(attack: Callable[[], Awaitable[None]]) -> None:
    for _ in range(0, TIMES, AT_ONCE):
        await asyncio.gather(*(attack() for _ in range(AT_ONCE)))


async def test_broken_websockets(start_server: StartServer) -> None:
    server = start_server()

    async def attack() -> None:
        async with await open_websocket(server) as websocket:
            websocket.write(encode(TEXT, b"4x", reserved=1))
            await websocket.ended()

    await repeat(attack)
    assert 1 <= sum("reserved bits" in line for line in server.log()) <= MOST_LINES
    assert len(server.log()) <= MOST_LINES


async def test_broken_requests(start_server: StartServer) -> None:
    server = start_server()

    async def attack() -> None:
        async with RawHttp(server.url) as http:
            http.write(b"\x16\x03\x01 no request at all\r\n\r\n")
            assert b" 400 " in await http.ended()
        upgrade = b"GET /health HTTP/1.1\r\n" + HOST + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        assert (await exchange(server.url, upgrade)).status == 200

    await repeat(attack)
    assert len(server.log()) <= MOST_LINES


@on_both
async def test_bad_names(start_server: StartServer) -> None:
    server = start_server()

    async def attack() -> None:
        async with await open_websocket(server) as websocket:
            websocket.write(encode(TEXT, b'40{"username":""}'))
            answer = await websocket.message()
            assert answer is not None
            assert b"invalid username" in answer

    await repeat(attack)
    assert len(server.log()) <= MOST_LINES


# -- forging --------------------------------------------------------------------------------------------------------

FORGED = "x\n2026-01-01 00:00:00,000 CRITICAL duologue: FORGED \x1b[31m\x1b]0;t\x07 \u202e"


async def say_it_everywhere(server: ServerProcess) -> None:
    """Put the forged line into each place where a peer has a word to say."""
    for name in (FORGED, FORGED[:32], "\x1b[31mred", "new\nline", "right\u202eleft"):
        with pytest.raises(Refused, match="invalid username"):
            await ChatClient(server.url, name).connect()
    async with ChatClient(server.url, "mallory") as mallory:
        for event, argument in (
            (FORGED, {}),
            ("private message", {"content": FORGED, "to": FORGED}),
            ("private message", {"content": FORGED, "to": mallory.user_id, "id": FORGED}),
            ("private message", {FORGED: FORGED}),
            ("history", {"with": FORGED}),
            ("sync", {"since": FORGED, "next": FORGED}),
            ("directory", {"after": FORGED}),
            ("typing", {"to": FORGED}),
            ("read", {"with": FORGED, "seq": 1}),
        ):
            with pytest.raises(Refused):
                await mallory.request(event, argument)
        await mallory.send(mallory.user_id, FORGED)
    for header in ("User-Agent", "Origin", "Host", "Cookie", "X-Forwarded-For", "Referer"):
        word = b"\x1b[31mFORGED"
        async with RawHttp(server.url) as http:
            fields = b"" if header == "Host" else HOST
            http.write(b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n", fields)
            http.write(header.encode(), b": ", word, b"\r\nConnection: close\r\n\r\n")
            await http.ended()
    await exchange(server.url, b"GET /%0a%1b[31mFORGED.js HTTP/1.1\r\n", HOST, b"\r\n")
    websocket, status = await RawWebsocket.handshake(server.url, {"Origin": "http://\x1b[31mFORGED"})
    assert status in (400, 403)
    await websocket.close()
    async with await sign_in(server) as signed_in:
        signed_in.write(encode(TEXT, b'42["' + b"\x1b[31mFORGED" + b'",{}]'))
        await signed_in.ended()


@on_both
@pytest.mark.parametrize("format", ["text", "json"])
async def test_nobody_writes_into_the_log(start_server: StartServer, format: str) -> None:
    server = start_server("--log-level", "debug", "--log-format", format)
    await say_it_everywhere(server)
    lines = server.log()
    assert any("FORGED" in line for line in lines), "nothing of it was logged, so this test shows nothing"
    own = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} |\{\"at\": |Duologue serves ")
    for line in lines:
        assert own.match(line), line
        assert not re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]", line)
        assert not line.startswith("2026-01-01")
