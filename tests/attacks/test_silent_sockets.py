"""Row 7: five thousand sockets that are opened and say nothing more, or never what is due next."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.attacks.wire import open_websocket
from tests.conformance.raw_websocket import TEXT, RawWebsocket, encode
from tests.conftest import StartServer, on_both_in_time
from tests.support.client import ChatClient
from tests.support.process import ServerProcess
from tests.support.raw_http import HOST, RawHttp, exchange

pytestmark = pytest.mark.asyncio

OF_A_KIND = 1_000
AT_ONCE = 100
HEADER_TIMEOUT = 10.0
"""The server's time for a request's headers; the other times are made short by flags."""

PATIENCE = HEADER_TIMEOUT + 20
MEGABYTE = 1_000_000
POLLING = b"GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\n" + HOST

Gone = Callable[[], Awaitable[None]]
"""Waits until the server has given a peer up."""


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 8 * OF_A_KIND
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"this system allows {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_http(*said: bytes) -> Callable[[ServerProcess], Awaitable[Gone]]:
    async def open(server: ServerProcess) -> Gone:
        http = await RawHttp(server.url).__aenter__()
        http.write(*said)

        async def gone() -> None:
            assert b" 200 " not in await http.ended(PATIENCE)
            await http.__aexit__(None, None, None)

        return gone

    return open


async def read_to_the_end(websocket: RawWebsocket, *, answer: bool) -> None:
    """Read until the connection is gone, and answer nothing but perhaps pings."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(TimeoutError):
                frame = await websocket.frame()
                if frame is None:
                    break
                if answer and frame.payload == b"2":
                    websocket.write(encode(TEXT, b"3"))
    await websocket.close()


async def no_connect(server: ServerProcess) -> Gone:
    """Answers pings, and signs in nowhere."""
    websocket = await open_websocket(server)
    return lambda: read_to_the_end(websocket, answer=True)


async def no_pong(server: ServerProcess) -> Gone:
    """Is signed in, reads, and answers no ping."""
    websocket = await open_websocket(server)
    websocket.write(encode(TEXT, b'40{"username":"silent","sync":{"since":null}}'))
    assert await websocket.message() is not None
    return lambda: read_to_the_end(websocket, answer=False)


async def no_poll(server: ServerProcess) -> Gone:
    """Opens a polling session and never polls. Its TCP connection is gone at once, the session has to follow."""
    answer = await exchange(server.url, POLLING + b"Connection: close\r\n\r\n")
    sid = json.loads(answer.body[1:])["sid"].encode()
    request = b"POST /socket.io/?EIO=4&transport=polling&sid=" + sid + b" HTTP/1.1\r\n" + HOST

    async def gone() -> None:
        refused = await exchange(server.url, request + b"Connection: close\r\nContent-Length: 1\r\n\r\n3")
        assert json.loads(refused.body) == {"code": 1, "message": "Session ID unknown"}

    return gone


KINDS = (no_poll, no_connect, no_pong, open_http(), open_http(POLLING, b"X-Slow: "))
"""Those with the shortest time last: all have to be there at once. All but the first keep a connection."""


async def open_all(server: ServerProcess) -> list[Gone]:
    gone: list[Gone] = []
    for kind in KINDS:
        for _ in range(0, OF_A_KIND, AT_ONCE):
            gone += await asyncio.gather(*(kind(server) for _ in range(AT_ONCE)))
    return gone


async def all_gone(gone: list[Gone]) -> None:
    await asyncio.gather(*(wait() for wait in gone[OF_A_KIND:]))
    for start in range(0, OF_A_KIND, AT_ONCE):
        await asyncio.gather(*(wait() for wait in gone[start : start + AT_ONCE]))


async def until(true: Callable[[], bool]) -> None:
    """The system tells nobody when another process closes a descriptor, so look now and then."""
    async with asyncio.timeout(PATIENCE):
        while not true():  # noqa: ASYNC110 - see above
            await asyncio.sleep(0.05)


async def talk(one: ChatClient, other: ChatClient) -> None:
    """Two people who talk all the while; each answer has to come in time."""
    count = 0
    while True:
        await one.send(other.user_id, f"said {count}", timeout=10)
        await other.wait_for_message(f"said {count}", timeout=10)
        count += 1
        await asyncio.sleep(0.02)


@on_both_in_time
@pytest.mark.timeout(180)
@pytest.mark.usefixtures("many_descriptors")
async def test_five_thousand_silent_sockets(start_server: StartServer) -> None:
    server = start_server(
        "--ping-interval", "7", "--ping-timeout", "7", "--connect-timeout", "14", "--announce-people", "1"
    )
    async with ChatClient(server.url, "alice") as alice, ChatClient(server.url, "bob") as bob:
        talking = asyncio.create_task(talk(alice, bob))
        descriptors = server.descriptors()
        memory = []
        # A node has the same sockets: that it gives them up is enough, their memory is measured on one machine.
        for _ in range(1 if start_server.one_node else 2):
            gone = await open_all(server)
            # On a slow machine the first may be gone before the last have come.
            assert server.descriptors() - descriptors > 3.5 * OF_A_KIND, "not nearly all at once, so this shows nothing"
            await all_gone(gone)
            await until(lambda: server.descriptors() <= descriptors + 10)
            memory.append(server.rss())
        assert not talking.done(), talking.exception()
        talking.cancel()
        # What the first round took is kept for the next one, which must not take as much again.
        assert memory[-1] - memory[0] < 10 * MEGABYTE, memory
