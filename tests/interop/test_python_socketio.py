"""PyPI's python-socketio client against the echo server and the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
import socketio  # type: ignore[import-untyped]

from tests.conftest import StartServer, on_both
from tests.support.process import ServerProcess

pytestmark = pytest.mark.asyncio

TRANSPORTS = {"websocket": ["websocket"], "polling": ["polling"], "upgrade": ["polling", "websocket"]}
each_transport = pytest.mark.parametrize("transports", TRANSPORTS.values(), ids=TRANSPORTS)

PATIENCE = 10.0


class Listener:
    """A client whose events wait in a queue."""

    def __init__(self) -> None:
        self.client = socketio.AsyncClient(reconnection_delay=0.05, reconnection_delay_max=0.2, randomization_factor=0)
        self.events: asyncio.Queue[tuple[str, tuple[Any, ...]]] = asyncio.Queue()
        self.client.on("*", self._note)
        self.client.on("connect", self._connected)

    async def _note(self, event: str, *args: Any) -> None:
        await self.events.put((event, args))

    async def _connected(self) -> None:
        await self.events.put(("connect", ()))

    async def next(self, name: str) -> tuple[Any, ...]:
        """The arguments of the next event of that name; others are passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                event, args = await self.events.get()
                if event == name:
                    return args


@pytest_asyncio.fixture
async def listener() -> AsyncIterator[Listener]:
    listener = Listener()
    yield listener
    await listener.client.disconnect()


@each_transport
async def test_echo(listener: Listener, echo_server: ServerProcess, transports: list[str]) -> None:
    await listener.client.connect(echo_server.url, transports=transports, auth={"token": "123"}, wait_timeout=PATIENCE)
    assert await listener.next("auth") == ({"token": "123"},)
    await listener.client.emit("message", (1, "2", {"3": [True]}))
    assert await listener.next("message-back") == (1, "2", {"3": [True]})
    assert await listener.client.call("message-with-ack", "x", timeout=PATIENCE) == "x"
    await listener.client.emit("message", b"\x00\xff")
    assert await listener.next("message-back") == (b"\x00\xff",)
    assert await listener.client.call("message-with-ack", b"\x01", timeout=PATIENCE) == b"\x01"


@on_both
async def test_it_comes_back_after_a_restart(listener: Listener, start_server: StartServer) -> None:
    server = start_server()
    await listener.client.connect(
        server.url, auth={"username": "alice"}, transports=["websocket"], wait_timeout=PATIENCE
    )
    (session,) = await listener.next("session")
    assert server.terminate() == 0
    listener.client.connection_auth = {"sessionID": session["sessionID"]}
    server.start()
    (again,) = await listener.next("session")
    assert again == session


@on_both
@each_transport
async def test_it_talks_in_the_guides_form(start_server: StartServer, transports: list[str]) -> None:
    server = start_server()
    alice, bob = Listener(), Listener()
    await alice.client.connect(server.url, auth={"username": "alice"}, transports=transports, wait_timeout=PATIENCE)
    await bob.client.connect(server.url, auth={"username": "bob"}, transports=transports, wait_timeout=PATIENCE)
    (announced,) = await alice.next("user connected")
    assert announced["username"] == "bob"
    answer = await alice.client.call(
        "private message",
        {"content": "hello", "to": announced["userID"], "id": "00000000-0000-4000-8000-000000000001"},
        timeout=PATIENCE,
    )
    assert answer["seq"] == 1
    (message,) = await bob.next("private message")
    assert (message["content"], message["to"]) == ("hello", announced["userID"])
    await alice.client.disconnect()
    await bob.client.disconnect()


@on_both
async def test_a_refusal_is_a_connection_error(listener: Listener, start_server: StartServer) -> None:
    server = start_server()
    refusals: list[Any] = []
    listener.client.on("connect_error", refusals.append)
    with pytest.raises(socketio.exceptions.ConnectionError):
        await listener.client.connect(
            server.url, auth={"username": "x"}, transports=["websocket"], retry=False, wait_timeout=PATIENCE
        )
    assert [refusal["message"] for refusal in refusals] == ["invalid username"]
