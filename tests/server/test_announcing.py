"""Who is announced to whom: everybody while people are few, acquaintances and strangers who write beyond that."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.client import ChatClient, ConnectionLost
from tests.support.inside import Inside, serving

pytestmark = pytest.mark.asyncio


async def guide(inside: Inside, name: str, session_id: str | None = None) -> ChatClient:
    return await ChatClient(inside.url, name, guide=True, session_id=session_id).connect()


async def told_to_acquaintances(inside: Inside, name: str) -> ChatClient:
    """A guide's client of whose coming all acquaintances were told, so that those of later aren't among them."""
    with inside.store.hold("peers", after=True, only=0) as reads:
        client = await guide(inside, name)
        await reads.reached()
    return client


def names(client: ChatClient) -> list[str]:
    """The names of the events that a client got, presence with whom it's about."""
    of = {"user connected": lambda user: user["userID"], "user disconnected": lambda user: user}
    return [f"{name} {of[name](arguments[0])}" if name in of else name for name, arguments in client.events]


async def caught_up(*clients: ChatClient) -> None:
    """Wait until each client has everything that was sent to it so far: a connection keeps its order."""
    for client in clients:
        await client.request("typing", {"to": "0" * 16})


async def test_up_to_the_bound_the_guides_clients_are_told_of_everybody_and_others_of_nobody(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", announce_people=4) as inside:
        syncing = await ChatClient(inside.url, "syncing").connect()
        people = [await guide(inside, f"person {number}") for number in range(3)]
        assert [len(each.users) for each in people] == [2, 3, 4]
        people[2].cut()
        await people[0].wait_for_event("user disconnected")
        await people[1].wait_for_event("user disconnected")
        await caught_up(syncing)
        connected = [f"user connected {each.user_id}" for each in people]
        gone = f"user disconnected {people[2].user_id}"
        assert names(people[0]) == ["session", "users", *connected[1:], gone]
        assert names(people[1]) == ["session", "users", connected[2], gone]
        assert names(syncing) == ["session", "sync"]


async def test_beyond_the_bound_a_stranger_is_announced_just_before_their_first_message(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", announce_people=4) as inside:
        syncing = await ChatClient(inside.url, "syncing").connect()
        ann, bob, cat = [await guide(inside, name) for name in ("ann", "bob", "cat")]
        dan = await told_to_acquaintances(inside, "dan")
        phone = await guide(inside, "ann", ann.session_id)
        assert [user["username"] for user in dan.users] == ["dan"]
        assert [user["username"] for user in phone.users] == ["ann"]
        for content in ("first", "second"):
            dan.say(ann.user_id, content)
            await ann.wait_for_message(content)
            await phone.wait_for_message(content)
        ann.say(syncing.user_id, "to somebody whom my phone does not know")
        await phone.wait_for_message("to somebody whom my phone does not know")
        dan.cut()
        await phone.wait_for_event("user disconnected")
        again = await guide(inside, "dan", dan.session_id)
        await phone.wait_for(lambda _: names(phone).count(f"user connected {dan.user_id}") == 2)
        await caught_up(ann, bob, cat, again)
        came, left = f"user connected {dan.user_id}", f"user disconnected {dan.user_id}"
        talk = [came, "private message", "private message"]
        assert names(phone) == [
            "session", "users", *talk, f"user connected {syncing.user_id}", "private message", left, came,
        ]  # fmt: skip
        assert names(ann)[-5:] == [*talk, left, came]
        assert [name for name in names(bob) + names(cat) if dan.user_id in name] == []
        assert {user["username"]: len(user["messages"]) for user in again.users} == {"ann": 2, "dan": 0}
        assert names(syncing) == ["session", "sync", f"user connected {ann.user_id}", "private message"]


async def test_a_guest_who_left_while_they_were_made_counts_as_one_of_the_people(tmp_path: Path) -> None:
    """Else the roster, which counts what is stored, leaves out strangers whom nobody announces either."""
    async with serving(tmp_path / "data", announce_people=2) as inside:
        ann = await guide(inside, "ann")
        with inside.store.hold("create_guest", after=True) as gate:
            ghost = ChatClient(inside.url, "ghost", guide=True)
            signing_in = asyncio.create_task(ghost.connect())
            await gate.reached()
            ghost.cut()
            with pytest.raises(ConnectionLost):
                await signing_in
            await inside.sockets_left(1)
        bob = await told_to_acquaintances(inside, "bob")
        ann.cut()
        await ann.connect()
        assert [user["username"] for user in ann.users] == ["ann"]
        bob.say(ann.user_id, "hello")
        await ann.wait_for_message("hello")
        assert names(ann) == ["session", "users", f"user connected {bob.user_id}", "private message"]
