"""HTTP connections that are kept open without being of use: each is let go of after its time."""

from __future__ import annotations

import asyncio

import pytest

from tests.server.transport.harness import LARGE, PATIENCE, Peer, Running, Serve

pytestmark = pytest.mark.asyncio

REQUEST = b"GET /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\n"
DRIP = 0.02
"""Seconds between two bytes; the server's patience in these tests is 0.3."""


async def drip_until_closed(peer: Peer, data: bytes) -> None:
    """Send something again and again; returns when the server has had enough."""
    async with asyncio.timeout(PATIENCE):
        while not peer.reader.at_eof():
            peer.writer.write(data)
            try:
                await asyncio.wait_for(peer.reader.read(1), DRIP)
            except TimeoutError:
                continue
            except ConnectionError:
                return


async def answered(running: Running, request: bytes) -> Peer:
    peer = await running.open()
    peer.writer.write(request)
    assert (await peer.response())[0] == 404
    return peer


async def test_empty_lines_after_an_answer(serve: Serve) -> None:
    async with serve(header_timeout=0.3) as running:
        await drip_until_closed(await answered(running, REQUEST + b"\r\n"), b"\r\n")


async def test_one_empty_line_after_an_answer_and_then_silence(serve: Serve) -> None:
    async with serve(header_timeout=0.3) as running:
        peer = await answered(running, REQUEST + b"\r\n")
        peer.writer.write(b"\r\n")
        assert await peer.end() == b""


async def test_a_body_that_drips_on_after_its_answer(serve: Serve) -> None:
    async with serve(body_timeout=0.3) as running:
        await drip_until_closed(await answered(running, REQUEST + b"Content-Length: 1000000\r\n\r\n"), b"x")


async def test_chunks_that_drip_on_after_their_answer(serve: Serve) -> None:
    async with serve(body_timeout=0.3) as running:
        await drip_until_closed(await answered(running, REQUEST + b"Transfer-Encoding: chunked\r\n\r\n"), b"1\r\nx\r\n")


async def test_a_second_request_is_served_as_late_as_it_may_come(serve: Serve) -> None:
    async with serve(header_timeout=0.3, ping_interval=0.4) as running:  # which makes the wheel's ticks finer
        peer = await answered(running, REQUEST + b"\r\n")
        for _ in range(5):
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.reader.read(1), 0.1)
            peer.writer.write(REQUEST + b"\r\n")
            assert (await peer.response())[0] == 404


async def test_a_trusted_proxys_connection_is_kept_for_its_next_request(serve: Serve) -> None:
    times = {"header_timeout": 0.3, "proxy_idle_timeout": PATIENCE, "ping_interval": 0.4}
    async with serve(trusted_proxies=("127.0.0.1",), **times) as running:
        peer = await running.open()
        for head, rest in (
            (REQUEST + b"\r\n", b""),
            (REQUEST + b"Content-Length: 1\r\n\r\n", b"x"),
            (REQUEST + b"\r\n", b""),
        ):
            peer.writer.write(head)
            assert (await peer.response())[0] == 404
            peer.writer.write(rest)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(peer.reader.read(1), 0.6)


async def test_a_trusted_proxys_connection_is_closed_in_the_end(serve: Serve) -> None:
    async with serve(trusted_proxies=("127.0.0.1",), header_timeout=3600, proxy_idle_timeout=0.3) as running:
        assert await (await answered(running, REQUEST + b"\r\n")).end() == b""
        assert await (await running.open()).end() == b""


async def test_a_body_that_drips_on_after_its_answer_to_a_trusted_proxy(serve: Serve) -> None:
    async with serve(trusted_proxies=("127.0.0.1",), body_timeout=0.3) as running:
        await drip_until_closed(await answered(running, REQUEST + b"Content-Length: 1000000\r\n\r\n"), b"x")


async def test_a_websocket_on_a_connection_that_had_a_request_before(serve: Serve) -> None:
    async with serve(header_timeout=0.3, ping_interval=0.4) as running:
        peer = await answered(running, REQUEST + b"\r\n")
        assert (await peer.shake_hands()).startswith("HTTP/1.1 101")
        await peer.frame()
        for _ in range(3):
            assert await peer.frame() == (1, b"2")
            peer.send(b"3")


async def test_an_answer_that_nobody_reads(serve: Serve) -> None:
    async with serve(write_timeout=0.3) as running:
        peer = await running.open()  # its reader stops by itself when nobody takes anything from it
        peer.writer.write(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        async with asyncio.timeout(PATIENCE):
            while not running.http_connections:
                await asyncio.sleep(0)
            while running.http_connections:
                await asyncio.sleep(0)
        assert len(await peer.end()) < LARGE


async def test_an_answer_that_is_read_in_time(serve: Serve) -> None:
    async with serve(write_timeout=10) as running:
        status, body = await running.request(b"GET /large HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        assert (status, len(body)) == (200, LARGE)
