"""An application that refuses before it reads: whom the transports answer for it, and whom not."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import pytest_asyncio

from duologue.server.transport import Socket, SocketServer
from duologue.wire import Refuser
from tests.support.pipe import Pipe

pytestmark = pytest.mark.asyncio

VIOLATION = 1002


class Note(msgspec.Struct):
    text: str


class Quiet:
    """Accepts nobody by itself."""

    def __init__(self) -> None:
        self.sockets: list[Socket] = []
        self.events: list[str] = []
        self.enough: bytes | None = None
        """What it has those answered with that come after an event which it has heard."""

    def on_connect(self, socket: Socket, auth: msgspec.Raw | None) -> None:
        self.sockets.append(socket)

    def on_event(self, socket: Socket, name: str, *rest: Any) -> None:
        self.events.append(name)

    def on_typed_event(self, socket: Socket, name: str, argument: Any, ack_id: int | None) -> bytes | None:
        self.on_event(socket, name)
        return self.enough

    def on_disconnect(self, socket: Socket, reason: str) -> None:
        pass


class Overloaded:
    """A server that refuses every `note`, and a client of it."""

    def __init__(self, answer: bytes = b'["no"]') -> None:
        self.app = Quiet()
        self.server = SocketServer(
            self.app,
            types={"note": Note, "other": Note},
            on_typed_event=self.app.on_typed_event,
            refuser=Refuser(["note"], self._ask, self._answer),
        )
        self.answer: bytes | None = answer
        self.why: str | None = "why"
        self.asked = 0

    def _ask(self) -> str | None:
        self.asked += 1
        return self.why

    def _answer(self, why: str) -> bytes:
        assert why == "why"
        assert self.answer is not None, "made up"
        return self.answer

    def client(self) -> Pipe:
        return Pipe(self.server)


@pytest_asyncio.fixture
async def overloaded() -> AsyncIterator[Overloaded]:
    made = Overloaded()
    await made.server.start()
    yield made
    await made.server.stop()


def note(client: Pipe, packet: bytes = b'421["note",{"text":"hi"}]') -> None:
    client._say(packet)


async def accepted(overloaded: Overloaded) -> Pipe:
    client = overloaded.client()
    client.connect({})
    overloaded.app.sockets[-1].accept()
    await client.until(lambda: client.accepted)
    return client


async def test_a_connected_peer_is_answered_and_the_application_not_asked(overloaded: Overloaded) -> None:
    client = await accepted(overloaded)
    for _ in range(3):
        assert await client.ask("note", {"text": "hi"}) == "no"
    client.emit("other", {"text": "hi"})
    client.emit("note", {"text": "without an ack"}, ack=False)
    assert overloaded.app.events == ["other", "note"]
    assert client.broken == []


async def test_what_came_in_one_turn_is_asked_for_once(overloaded: Overloaded) -> None:
    client, other = await accepted(overloaded), await accepted(overloaded)
    for turn in (1, 2):
        last = max([client.emit("note", {"text": "hi"}) or 0 for _ in range(100)])
        other.emit("note", {"text": "hi"})
        await client.until(lambda last=last: last in client.acks)
        assert overloaded.asked == 2 * turn
    assert client.acks == dict.fromkeys(range(1, 201), "no")
    assert other.acks == {1: "no", 2: "no"}


async def test_what_comes_after_the_applications_own_no_in_the_same_turn_is_answered_unread(
    overloaded: Overloaded,
) -> None:
    app, overloaded.why = overloaded.app, None
    client, other = await accepted(overloaded), await accepted(overloaded)
    for turn in range(2):
        app.events = []
        app.enough = b'["enough"]'
        client.emit("other", {"text": "one too many"}, ack=False)
        app.enough = None
        asked = overloaded.asked
        refused = [client.emit("note", {"text": "hi"}) for _ in range(40)]
        assert (app.events, overloaded.asked) == (["other"], asked)
        client.emit("note", {"text": "without an ack"}, ack=False)
        app.enough = b'["a second no"]'
        client.emit("other", {"text": "of another kind"}, ack=False)
        app.enough = None
        other.emit("note", {"text": "from somebody else"})
        assert app.events == ["other", "note", "other", "note"]
        await client.until(lambda last=refused[-1]: last in client.acks)
        assert [client.acks[id] for id in refused if id] == ["enough"] * 40
        assert len(client.acks) == 40 * (turn + 1)
    client.emit("note", {"text": "another turn"})
    assert app.events[-2:] == ["note", "note"]
    assert client.broken == other.broken == []


async def test_the_answers_come_before_the_goodbye(overloaded: Overloaded) -> None:
    """Of either side: after it the same id may be asked with again."""
    client, other = await accepted(overloaded), await accepted(overloaded)
    note(client)
    overloaded.app.sockets[0].disconnect()
    note(other)
    other._say(b"41")
    other.connect({})
    overloaded.app.sockets[-1].accept()
    await other.until(lambda: len(other.packets) == 3)
    assert client.packets[1:] == [b'431["no"]', b"41"]
    assert other.packets[1] == b'431["no"]'
    assert other.packets[2].startswith(b"40")


async def test_the_answers_come_before_the_end(overloaded: Overloaded) -> None:
    client = await accepted(overloaded)
    note(client)
    overloaded.app.sockets[-1].close("enough")
    assert client.closed is not None
    assert client.packets[1:] == [b'431["no"]']


async def test_nobody_else_is(overloaded: Overloaded) -> None:
    before_connect = overloaded.client()
    note(before_connect)
    asked = overloaded.client()
    asked.connect({})
    note(asked)
    left = await accepted(overloaded)
    left._say(b"41")
    note(left)
    amid = await accepted(overloaded)
    amid._say(b'451-["x",{"_placeholder":true,"num":0}]')
    note(amid)
    for client in (before_connect, asked, left, amid):
        assert client.closed == VIOLATION
        assert client.acks == {}


async def test_after_the_servers_goodbye_what_was_under_way_is_dropped(overloaded: Overloaded) -> None:
    client = await accepted(overloaded)
    overloaded.app.sockets[-1].disconnect()
    note(client)
    await client.until(lambda: client.dismissed)
    assert client.closed is None
    assert client.acks == {}


async def test_a_refuser_that_fails_costs_its_own_connection(
    overloaded: Overloaded, caplog: pytest.LogCaptureFixture
) -> None:
    client, other = await accepted(overloaded), await accepted(overloaded)
    overloaded.answer = None
    note(client)
    assert client.closed == 1011
    assert "the application failed" in caplog.text
    overloaded.answer = b'["no"]'
    assert await other.ask("note", {"text": "hi"}) == "no"
