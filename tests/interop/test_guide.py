"""Socket.IO's "Private messaging" guide, Parts I to III: its client, in several processes, against the real server.

A `Person` is one browser tab; `storage` stands for the browser's localStorage, which tabs of one browser share.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.conftest import StartServer, on_both
from tests.interop.conftest import StartPuppet
from tests.support.process import ServerProcess
from tests.support.puppet import Puppet

pytestmark = [pytest.mark.asyncio, on_both]

QUICK = {"reconnectionDelay": 50, "reconnectionDelayMax": 200}
NO_GRACE = ("--presence-grace", "0")

PATIENCE = 20.0
"""Seconds until a message that was sent without an ack is stored."""


class Person:
    def __init__(self, puppet: Puppet) -> None:
        self.puppet = puppet
        self.user_id = ""
        self.session_id = ""

    @classmethod
    async def arrive(
        cls, start_puppet: StartPuppet, server: ServerProcess, auth: dict[str, str], **options: Any
    ) -> Person:
        """Open a tab: the guide's client with a name, or with the session that it finds in its storage."""
        person = cls(await start_puppet())
        await person.puppet.order("guide", url=server.url, options={"auth": auth, **QUICK, **options})
        (session,) = await person.puppet.wait_for("session")
        await person.puppet.wait_for("users")
        person.user_id, person.session_id = session["userID"], session["sessionID"]
        return person

    async def say(self, to: Person, content: str) -> None:
        await self.puppet.order("say", to=to.user_id, content=content)

    async def sees(self, peer: Person) -> dict[str, Any]:
        """What the page shows of a person."""
        state = await self.puppet.order("state")
        found = [user for user in state["users"] if user["userID"] == peer.user_id]
        assert len(found) == 1, f"listed {len(found)} times"
        return dict(found[0])

    async def shows(self, peer: Person) -> list[tuple[str, bool]]:
        """The messages that the page shows with a person: text, and whether they are one's own."""
        return [(message["content"], message["fromSelf"]) for message in (await self.sees(peer))["messages"]]

    async def until_message(self, content: str) -> dict[str, Any]:
        (message,) = await self.puppet.wait_for("private message", lambda args: args[0]["content"] == content)
        return dict(message)

    async def heard(self, content: str) -> int:
        """How often a message came. A round trip stands behind whatever was on its way before it."""
        await self.puppet.ask("watch", {"users": []})
        return sum(args[0]["content"] == content for args in self.puppet.args_of("private message"))


async def test_people_see_each_other(start_server: StartServer, start_puppet: StartPuppet) -> None:
    server = start_server(*NO_GRACE)
    alice = await Person.arrive(start_puppet, server, {"username": "alice"})
    bob = await Person.arrive(start_puppet, server, {"username": "bob"})
    (announced,) = await alice.puppet.wait_for("user connected")
    assert announced == {"userID": bob.user_id, "username": "bob", "connected": True, "messages": []}
    (users,) = await bob.puppet.wait_for("users")
    assert {(user["username"], user["connected"]) for user in users} == {("alice", True), ("bob", True)}
    assert all(user["messages"] == [] for user in users)
    assert len(alice.user_id) == 16
    assert len(alice.session_id) == 64


async def test_a_wrong_name_is_refused(start_server: StartServer, start_puppet: StartPuppet) -> None:
    server = start_server()
    for auth in (
        {},
        {"username": ""},
        {"username": "ab"},
        {"username": 7},
        {"sessionID": "f" * 64},
        {"username": "\u202ealice"},
    ):
        puppet = await start_puppet()
        await puppet.order("connect", url=server.url, options={"auth": auth})
        assert (await puppet.wait_for("@connect_error"))[0] == "invalid username"


async def test_two_people_of_one_name_are_two(start_server: StartServer, start_puppet: StartPuppet) -> None:
    server = start_server()
    one = await Person.arrive(start_puppet, server, {"username": "alice"})
    other = await Person.arrive(start_puppet, server, {"username": "alice"})
    assert one.user_id != other.user_id


async def test_a_message_reaches_the_recipient_and_nobody_else(
    start_server: StartServer, start_puppet: StartPuppet
) -> None:
    server = start_server()
    alice = await Person.arrive(start_puppet, server, {"username": "alice"})
    bob = await Person.arrive(start_puppet, server, {"username": "bob"})
    eve = await Person.arrive(start_puppet, server, {"username": "eve"})
    await alice.puppet.wait_for("user connected", lambda args: args[0]["userID"] == bob.user_id)
    await alice.say(bob, "hello")
    message = await bob.until_message("hello")
    assert (message["from"], message["to"], message["seq"]) == (alice.user_id, bob.user_id, 1)
    assert await bob.shows(alice) == [("hello", False)]
    assert await eve.heard("hello") == 0
    assert await alice.heard("hello") == 0, "the socket that sent it must not get it"


async def test_every_tab_gets_a_message_once(start_server: StartServer, start_puppet: StartPuppet) -> None:
    server = start_server()
    alice = await Person.arrive(start_puppet, server, {"username": "alice"})
    alice_tab = await Person.arrive(start_puppet, server, {"sessionID": alice.session_id})
    bob = await Person.arrive(start_puppet, server, {"username": "bob"})
    bob_tab = await Person.arrive(start_puppet, server, {"sessionID": bob.session_id})
    await alice.puppet.wait_for("user connected", lambda args: args[0]["userID"] == bob.user_id)
    await alice.say(bob, "to all tabs")
    for tab in (bob, bob_tab, alice_tab):
        await tab.until_message("to all tabs")
        assert await tab.heard("to all tabs") == 1
    assert await alice.heard("to all tabs") == 0
    assert await alice_tab.shows(bob) == [("to all tabs", True)]


async def test_a_message_to_oneself(start_server: StartServer, start_puppet: StartPuppet) -> None:
    server = start_server()
    alice = await Person.arrive(start_puppet, server, {"username": "alice"})
    tab = await Person.arrive(start_puppet, server, {"sessionID": alice.session_id})
    await alice.say(alice, "note to self")
    await tab.until_message("note to self")
    assert await tab.heard("note to self") == 1
    assert await alice.heard("note to self") == 0
    assert await alice.shows(alice) == [("note to self", True)]


async def test_presence_ends_with_the_last_tab(start_server: StartServer, start_puppet: StartPuppet) -> None:
    server = start_server(*NO_GRACE)
    alice = await Person.arrive(start_puppet, server, {"username": "alice"})
    bob = await Person.arrive(start_puppet, server, {"username": "bob"})
    bob_tab = await Person.arrive(start_puppet, server, {"sessionID": bob.session_id})
    await bob.puppet.close()
    await bob_tab.say(alice, "one tab is left")
    await alice.until_message("one tab is left")
    assert alice.puppet.args_of("user disconnected") == []
    await bob_tab.puppet.close()
    assert await alice.puppet.wait_for("user disconnected") == [bob.user_id]
    assert (await alice.sees(bob))["connected"] is False


async def test_an_offline_recipient_finds_the_messages(start_server: StartServer, start_puppet: StartPuppet) -> None:
    server = start_server(*NO_GRACE)
    alice = await Person.arrive(start_puppet, server, {"username": "alice"})
    bob = await Person.arrive(start_puppet, server, {"username": "bob"})
    await alice.puppet.wait_for("user connected")
    await bob.puppet.close()
    await alice.puppet.wait_for("user disconnected")
    await alice.say(bob, "are you there?")
    await alice.say(bob, "then later")
    assert await alice.heard("no matter") == 0
    back = await Person.arrive(start_puppet, server, {"sessionID": bob.session_id})
    assert back.user_id == bob.user_id
    async with asyncio.timeout(PATIENCE):  # to say something is not to know that it was stored
        while await back.shows(alice) != [("are you there?", False), ("then later", False)]:
            await asyncio.sleep(0.05)
    assert await alice.puppet.wait_for("user connected", lambda args: args[0]["userID"] == bob.user_id)


async def test_a_reload_keeps_the_user_and_the_messages(start_server: StartServer, start_puppet: StartPuppet) -> None:
    server = start_server("--presence-grace", "30")
    alice = await Person.arrive(start_puppet, server, {"username": "alice"})
    bob = await Person.arrive(start_puppet, server, {"username": "bob"})
    await alice.puppet.wait_for("user connected")
    await alice.say(bob, "before the reload")
    await bob.until_message("before the reload")
    await alice.puppet.close()
    reloaded = await Person.arrive(start_puppet, server, {"sessionID": alice.session_id})
    assert (reloaded.user_id, reloaded.session_id) == (alice.user_id, alice.session_id)
    assert await reloaded.shows(bob) == [("before the reload", True)]
    assert bob.puppet.args_of("user disconnected") == [], "a reload is hidden by the grace"


@pytest.mark.parametrize("transports", [["websocket"], ["polling"], ["polling", "websocket"]], ids=str)
@pytest.mark.parametrize("end", ["kill", "terminate"])
async def test_users_sessions_and_messages_outlive_the_server(
    start_server: StartServer, start_puppet: StartPuppet, end: str, transports: list[str]
) -> None:
    server = start_server()
    alice = await Person.arrive(start_puppet, server, {"username": "alice"}, transports=transports)
    bob = await Person.arrive(start_puppet, server, {"username": "bob"}, transports=transports)
    await alice.puppet.wait_for("user connected")
    await alice.say(bob, "before")
    await bob.until_message("before")
    marks = alice.puppet.mark(), bob.puppet.mark()
    await asyncio.to_thread(getattr(server, end))
    await asyncio.to_thread(server.start)
    for person, mark in zip((alice, bob), marks, strict=True):
        (session,) = await person.puppet.wait_for("session", since=mark)
        assert session == {"sessionID": person.session_id, "userID": person.user_id}
        await person.puppet.wait_for("users", since=mark)
    assert await bob.shows(alice) == [("before", False)]
    await alice.say(bob, "after")
    message = await bob.until_message("after")
    assert message["seq"] == 2
    assert await bob.shows(alice) == [("before", False), ("after", False)]


async def test_a_cut_tab_catches_up_by_itself(start_server: StartServer, start_puppet: StartPuppet) -> None:
    server = start_server()
    alice = await Person.arrive(start_puppet, server, {"username": "alice"})
    bob = await Person.arrive(start_puppet, server, {"username": "bob"})
    await alice.puppet.wait_for("user connected")
    mark = bob.puppet.mark()
    await bob.puppet.order("drop")
    await alice.say(bob, "into the cut")
    await bob.puppet.wait_for("users", since=mark)
    assert await alice.heard("no matter") == 0
    async with asyncio.timeout(10):  # by the page, or after it if the page was read before the message was stored
        while not (await bob.heard("into the cut") or await bob.shows(alice)):
            pass
    if await bob.heard("into the cut") == 0:
        assert await bob.shows(alice) == [("into the cut", False)]


async def test_acks_and_retries_of_the_stock_client(start_server: StartServer, start_puppet: StartPuppet) -> None:
    """`retries` with `ackTimeout` sends the same event again; its id makes that one message."""
    server = start_server()
    alice, bob = await start_puppet(), await start_puppet()
    await bob.connect(server.url, auth={"username": "bob"})
    (session,) = await bob.wait_for("session")
    await alice.connect(server.url, auth={"username": "alice"}, retries=3, ackTimeout=2_000)
    message = {"content": "once", "to": session["userID"], "id": "00000000-0000-4000-8000-000000000001"}
    first = await alice.ask("private message", message)
    assert await alice.ask("private message", message) == first
    assert first["seq"] == 1
    assert (await alice.ask("private message", {**message, "content": "other"}))["error"] == "conflict"
    await bob.ask("watch", {"users": []})
    assert len(bob.args_of("private message")) == 1
