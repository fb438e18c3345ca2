"""Where a request ends: a body is never taken for the next request, nor that for a body, whatever is asked for besides."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.server.transport.harness import HOST, PATIENCE, Peer, Serve, polling, until

pytestmark = pytest.mark.asyncio

TARGET = b"/socket.io/?EIO=4&transport=polling"
INNER = b"GET /smuggled HTTP/1.1\r\n" + HOST + b"\r\n"
UPGRADE = b"Connection: Upgrade\r\nUpgrade: "


def get(target: bytes, more: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\n" + HOST + more + b"\r\n"


def post(target: bytes, size: int, more: bytes = b"", version: bytes = b"1.1") -> bytes:
    return b"POST " + target + b" HTTP/" + version + b"\r\n" + HOST + more + b"Content-Length: %d\r\n\r\n" % size


async def written(peer: Peer, data: bytes) -> None:
    peer.writer.write(data)
    async with asyncio.timeout(PATIENCE):
        await peer.writer.drain()


@pytest.mark.parametrize("protocol", [b"h2c", b"websocket", b"anything"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_a_body_behind_an_upgrade_is_no_request(serve: Serve, protocol: bytes, at_once: bool) -> None:
    async with serve() as running:
        peer = await running.open()
        head = post(b"/nothing", len(INNER), UPGRADE + protocol + b"\r\n")
        peer.writer.write(head + INNER if at_once else head)
        answer = b"" if at_once else await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(b"" if at_once else INNER)
        answer += await peer.end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_body_of_nothing_is_none(serve: Serve) -> None:
    async with serve() as running:
        peer = await running.open()
        assert (await peer.shake_hands(Content_Length="0")).startswith("HTTP/1.1 101 ")


async def test_behind_chunks_neither(serve: Serve) -> None:
    async with serve() as running:
        peer = await running.open()
        peer.writer.write(
            b"POST /nothing HTTP/1.1\r\n" + HOST + UPGRADE + b"h2c\r\nTransfer-Encoding: chunked\r\n\r\n" + INNER
        )
        answer = await peer.end()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert answer.count(b"HTTP/1.1 ") == 1


async def test_an_upgrade_that_we_dont_know_is_an_ordinary_request_and_the_last_one(serve: Serve) -> None:
    async with serve() as running:
        peer = await running.open()
        peer.writer.write(get(TARGET, UPGRADE + b"h2c\r\n"))
        answer = await peer.end()
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"\r\nconnection: close\r\n" in answer


async def test_an_upgrade_behind_a_request_that_isnt_answered(serve: Serve) -> None:
    """That answer would wait for ever for a peer who doesn't read, or has gone."""
    async with serve(header_timeout=0.3, write_timeout=3600) as running:
        peer = await running.open()  # it doesn't read
        peer.writer.write(get(b"/stream"))
        await until(lambda: any(each.flow.write_paused for each in running.http_connections))  # type: ignore[attr-defined]
        key = b"websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        await written(peer, get(b"/socket.io/?EIO=4&transport=websocket", UPGRADE + key))
        await until(lambda: not running.http_connections)  # it's closed, or a websocket
        peer.writer.transport.abort()
        await until(lambda: not running.http_requests)


@pytest.mark.parametrize(("known", "status"), [(True, b"413"), (False, b"400")])
async def test_an_early_answer_to_who_waits_for_100_is_the_last_one(serve: Serve, known: bool, status: bytes) -> None:
    """They may send the body or not, and what comes next would be taken for it."""
    async with serve() as running:
        target = await polling(running) if known else TARGET + b"&sid=unknown"
        peer = await running.open()
        peer.writer.write(post(target, 1_100_000, b"Expect: 100-continue\r\n"))
        head = (await peer.reader.readuntil(b"\r\n\r\n")).lower()
        assert head.startswith(b"http/1.1 " + status)
        assert b"\r\nconnection: close\r\n" in head


@pytest.mark.parametrize(("version", "more"), [(b"1.1", b"Connection: close\r\n"), (b"1.0", b"")])
@pytest.mark.parametrize(("known", "status"), [(True, b"413"), (False, b"400")])
async def test_whose_connection_closes_gets_the_answer_after_the_whole_body(
    serve: Serve, version: bytes, more: bytes, known: bool, status: bytes
) -> None:
    async with serve() as running:
        target = await polling(running) if known else TARGET + b"&sid=unknown"
        peer = await running.open()
        peer.writer.write(post(target, 3_000_000, more, version))
        for _ in range(30):
            await written(peer, b"4" * 100_000)
        assert (await peer.end()).startswith(b"HTTP/1.1 " + status)


async def test_what_comes_behind_the_last_request_is_nobodys(serve: Serve) -> None:
    async with serve() as running:
        peer = await running.open()
        peer.writer.write(post(b"/nothing", 2, b"Expect: 100-continue\r\n"))
        head = await peer.reader.readuntil(b"\r\n\r\n")
        peer.writer.write(b"xx" + get(TARGET))
        assert head.startswith(b"HTTP/1.1 404 ")
        assert b"HTTP/1.1" not in await peer.end()
        assert running.server.counters.connections == 0


async def test_the_last_answer_doesnt_wait_for_another_request(serve: Serve) -> None:
    async with serve(body_timeout=3600) as running:
        peer = await running.open()
        peer.writer.write(post(b"/nothing", 1, b"Connection: close\r\n") + b"x" + post(b"/nothing", 2) + b"x")
        answer = await peer.end()
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert answer.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    "short",
    [{"header_timeout": 0.3}, {"trusted_proxies": ("127.0.0.1",), "proxy_idle_timeout": 0.3}],
    ids=["ours", "uvicorn's"],
)
async def test_the_rest_of_a_body_has_the_time_of_a_body(serve: Serve, short: dict[str, Any]) -> None:
    async with serve(ping_interval=0.4, **short) as running:
        peer = await running.open()
        peer.writer.write(post(b"/nothing", 10))
        assert (await peer.response())[0] == 404
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.reader.read(1), 0.6)
        peer.writer.write(b"4" * 10 + get(b"/nothing"))
        assert (await peer.response())[0] == 404


async def test_who_announces_more_than_will_be_read_is_told_that_the_connection_ends(serve: Serve) -> None:
    async with serve() as running:
        peer = await running.open()
        peer.writer.write(post(b"/nothing", 4_000_001))
        assert b"\r\nconnection: close\r\n" in await peer.reader.readuntil(b"\r\n\r\n")


@pytest.mark.parametrize("behind", [b"", get(b"/nothing")], ids=["alone", "with another request behind it"])
async def test_whose_poll_is_cut_has_gone(serve: Serve, behind: bytes) -> None:
    async with serve(ping_interval=3600) as running:
        target = await polling(running)
        peer = await running.open()
        peer.writer.write(get(target) + behind)
        await until(lambda: running.http_requests)
        peer.writer.transport.abort()
        await until(lambda: not running.server.counters.connections)
