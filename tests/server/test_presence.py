"""Who is told of whom, and when: whatever happens at once, what a client was told last is what is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw
import pytest

from duologue.store.sqlite import readers
from tests.support.client import ChatClient, ConnectionLost, Event
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


def told(of: str, events: Sequence[Event]) -> list[str]:
    """What a client was told of somebody's presence, in order."""
    return [name.removeprefix("user ") for name, arguments in events if _about(of, name, arguments)]


def _about(of: str, name: str, arguments: list[Any]) -> bool:
    return (name == "user connected" and arguments[0]["userID"] == of) or (
        name == "user disconnected" and arguments[0] == of
    )


async def wait_told(client: ChatClient, of: ChatClient, *what: str) -> None:
    """Wait until a client was told as much of somebody, and see that it's this."""
    await client.wait_for(lambda _: len(told(of.user_id, client.events)) >= len(what))
    assert told(of.user_id, client.events) == list(what)


async def acquainted(one: ChatClient, other: ChatClient) -> None:
    await one.send(other.user_id, "hello")
    await other.wait_for_message("hello")


async def leave(inside: Inside, client: ChatClient) -> None:
    """Cut, and wait until the server has noticed."""
    left = inside.transport.counters.connections - 1
    client.cut()
    await inside.sockets_left(left)


async def test_the_first_of_two_devices_never_finishes_its_sign_in(tmp_path: Path) -> None:
    """The other one is signed in meanwhile: others are told, though the first was the one to bring the user online."""
    async with serving(tmp_path / "data") as inside:
        ann = await guide(inside, "ann")
        bob = await guide(inside, "bob")
        await wait_told(ann, bob, "connected")
        await leave(inside, bob)
        await wait_told(ann, bob, "connected", "disconnected")
        with inside.store.hold("roster", only=1) as gate:
            first = ChatClient(inside.url, "bob", guide=True, session_id=bob.session_id)
            signing_in = asyncio.create_task(first.connect())
            await gate.reached()
            second = await guide(inside, "bob", bob.session_id)
            await wait_told(ann, bob, "connected", "disconnected", "connected")
            first.cut()
            with pytest.raises(ConnectionLost):
                await signing_in
        await inside.sockets_left(2)
        await leave(inside, second)
        await wait_told(ann, bob, "connected", "disconnected", "connected", "disconnected")
        await leave(inside, ann)
        await inside.all_gone()


async def test_who_never_finished_signing_in_was_never_here(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        ann, bob = await guide(inside, "ann"), await guide(inside, "bob")
        await leave(inside, bob)
        await wait_told(ann, bob, "connected", "disconnected")
        with inside.store.hold("roster", only=1) as gate:
            again = ChatClient(inside.url, "bob", guide=True, session_id=bob.session_id)
            signing_in = asyncio.create_task(again.connect())
            await gate.reached()
            cat = await guide(inside, "cat")
            (seen,) = [user for user in cat.users if user["userID"] == bob.user_id]
            assert not seen["connected"]
            again.cut()
            with pytest.raises(ConnectionLost):
                await signing_in
        await inside.sockets_left(2)
        dan = await guide(inside, "dan")
        for other in (ann, cat):
            await wait_told(other, dan, "connected")
        assert told(bob.user_id, ann.events) == ["connected", "disconnected"]
        assert told(bob.user_id, cat.events) == []


@pytest.mark.parametrize("finishes", [True, False])
async def test_the_last_socket_leaves_while_another_is_being_signed_in(tmp_path: Path, finishes: bool) -> None:
    """A reload: nobody is told of a departure unless the second socket fails."""
    async with serving(tmp_path / "data") as inside:
        ann, bob = await guide(inside, "ann"), await guide(inside, "bob")
        await wait_told(ann, bob, "connected")
        with inside.store.hold("roster") as gate:
            again = ChatClient(inside.url, "bob", guide=True, session_id=bob.session_id)
            signing_in = asyncio.create_task(again.connect())
            await gate.reached()
            await leave(inside, bob)
            if not finishes:
                again.cut()
                with pytest.raises(ConnectionLost):
                    await signing_in
        if finishes:
            await signing_in
            dan = await guide(inside, "dan")
            await wait_told(ann, dan, "connected")
            assert told(bob.user_id, ann.events) == ["connected"]
        else:
            await wait_told(ann, bob, "connected", "disconnected")


async def test_who_is_back_before_everybody_was_told_that_they_left_is_online(tmp_path: Path) -> None:
    """Who has to be told is read from the store, and the read for the departure ends after the one for the return."""
    async with serving(tmp_path / "data", announce_people=0) as inside:
        ann, bob = await guide(inside, "ann"), await guide(inside, "bob")
        await acquainted(ann, bob)
        with inside.store.hold("peers", after=True, only=1) as gate:
            await leave(inside, bob)
            await gate.reached()
            await guide(inside, "bob", bob.session_id)
        cat = await guide(inside, "cat")  # told of last, by the same way
        await acquainted(cat, ann)
        await leave(inside, cat)
        await ann.wait_for(lambda event: event == ("user disconnected", [cat.user_id]))
        assert told(bob.user_id, ann.events)[-1] == "connected"


async def test_departures_are_told_once_the_store_can_say_to_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(tmp_path / "data", announce_people=0) as inside:
        ann, bob, cat = [await told_to_acquaintances(inside, name) for name in ("ann", "bob", "cat")]
        watcher = await ChatClient(inside.url, "watcher").connect()
        await watcher.request("watch", {"users": [bob.user_id, cat.user_id]})
        await acquainted(bob, ann)
        await acquainted(cat, ann)
        monkeypatch.setattr(readers, "MAX_WAITING", 0)  # no line: every read is refused
        await leave(inside, bob)
        await wait_told(watcher, bob, "disconnected")  # whom nothing has to be read for
        await leave(inside, cat)
        await wait_told(watcher, cat, "disconnected")
        monkeypatch.undo()
        await wait_told(ann, bob, "connected", "disconnected")
        await wait_told(ann, cat, "connected", "disconnected")


async def test_an_error_that_nobody_foresaw_does_not_end_presence(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", announce_people=0) as inside:
        ann, bob = await guide(inside, "ann"), await told_to_acquaintances(inside, "bob")
        await acquainted(bob, ann)
        other = apsw.Connection(str(inside.store._folder.database))
        other.set_busy_timeout(5000)
        other.execute("ALTER TABLE meta RENAME TO elsewhere")
        with inside.store.hold("peers", after=True):
            await leave(inside, bob)
            await inside.until(lambda: not inside.gateway.presence.is_online(bob.user_id))
        other.execute("ALTER TABLE elsewhere RENAME TO meta")
        other.close()
        await wait_told(ann, bob, "connected", "disconnected")


async def test_nobody_is_told_of_a_reload_within_the_grace(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", presence_grace=3600) as inside:
        ann, bob = await guide(inside, "ann"), await guide(inside, "bob")
        for _ in range(30):
            await leave(inside, bob)
            await bob.connect()
        cat = await guide(inside, "cat")
        await wait_told(ann, cat, "connected")
        assert told(bob.user_id, ann.events) == ["connected"]
        for _ in range(3):
            await leave(inside, bob)
            await bob.connect()
        presence = vars(inside.gateway.presence)
        kept = {name: len(value) for name, value in presence.items() if hasattr(value, "__len__")}
        assert max(kept.values()) <= 3, f"grows with every reload: {kept}"


async def test_whoever_is_introduced_within_the_grace_is_online(tmp_path: Path) -> None:
    """Nobody will be told that they came back, for nobody was told that they left."""
    async with serving(tmp_path / "data", presence_grace=3600, announce_people=0) as inside:
        ann = await ChatClient(inside.url, "ann").connect()
        tablet = await guide(inside, "ann", ann.session_id)
        bob = await told_to_acquaintances(inside, "bob")
        await leave(inside, bob)
        await ann.send(bob.user_id, "are you there?")
        await tablet.wait_for_message("are you there?")
        (introduction,) = [arguments[0] for name, arguments in tablet.events if name == "user connected"]
        assert introduction == {"userID": bob.user_id, "username": "bob", "connected": True, "messages": []}


async def test_the_sender_left_before_they_were_introduced(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", announce_people=0) as inside:
        ann, bob = await guide(inside, "ann"), await told_to_acquaintances(inside, "bob")
        with inside.hold_outcomes() as commits:
            bob.say(ann.user_id, "and away")
            await commits.reached()
            await leave(inside, bob)
            await inside.until(lambda: not inside.gateway.presence.is_online(bob.user_id))
        await ann.wait_for_message("and away")
        (introduction,) = [arguments[0] for name, arguments in ann.events if name == "user connected"]
        assert introduction == {"userID": bob.user_id, "username": "bob", "connected": False, "messages": []}


async def test_the_last_watch_that_was_asked_for_counts(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        bob, cat = await guide(inside, "bob"), await guide(inside, "cat")
        ann = await ChatClient(inside.url, "ann").connect()
        with inside.store.hold("people", only=1) as gate:
            first = asyncio.create_task(ann.request("watch", {"users": [bob.user_id]}))
            await gate.reached()
            await ann.request("watch", {"users": [cat.user_id]})
        await first
        await leave(inside, bob)
        await leave(inside, cat)
        await wait_told(ann, cat, "disconnected")
        assert told(bob.user_id, ann.events) == []


async def test_leaving_goes_on_when_nothing_can_be_written(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        await guide(inside, "ann")
        inside.store._committer._limit = 0
        await inside.gateway.leave()


async def test_departures_are_told_while_the_disk_takes_its_time_and_written_down_once_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path / "data") as inside:
        ann, bob, cat = [await guide(inside, name) for name in ("ann", "bob", "cat")]
        with inside.store.hold("seen", only=1) as gate:
            await leave(inside, bob)
            await gate.reached()
            inside.store._committer._limit = 0  # and then it takes nothing more
            await leave(inside, cat)
            await wait_told(ann, cat, "connected", "disconnected")
        await inside.until(lambda: "trying again" in caplog.text)
        inside.store._committer._limit = 1000
        with inside.store.hold("seen", after=True, only=0) as written:
            await written.reached()
        people = await ann.request("watch", {"users": [bob.user_id, cat.user_id]})
        assert [person["lastSeen"] is not None for person in people["people"]] == [True, True]
