"""A hint was lost: the socket is brought up to date from the store, or closed so that its next sync does it."""

from __future__ import annotations

import logging
from pathlib import Path

import apsw
import pytest

from duologue.bus.local import LocalBus
from duologue.server import gateway
from duologue.store.sqlite import readers
from tests.support.client import ChatClient, Refused
from tests.support.inside import Inside, serving

pytestmark = pytest.mark.asyncio


class LosingBus(LocalBus):
    """Loses everything that is published for those whom a test names."""

    def __init__(self) -> None:
        super().__init__()
        self.lost_for: set[str] = set()

    def publish(self, user: str, version: int, packet: bytes, exclude: str = "", announcement: bool = False) -> None:
        if user not in self.lost_for:
            super().publish(user, version, packet, exclude, announcement)


async def test_a_syncing_client_is_told_who_writes_before_the_message_that_it_missed(tmp_path: Path) -> None:
    bus = LosingBus()
    async with serving(tmp_path / "data", bus=bus, announce_people=0) as inside:
        ann, bob = await ChatClient(inside.url, "ann").connect(), await ChatClient(inside.url, "bob").connect()
        bus.lost_for.add(ann.user_id)
        await bob.send(ann.user_id, "lost")
        bus.lost_for.clear()
        await bob.send(ann.user_id, "found")
        await ann.wait_for(lambda event: event[0] == "receipt" and "cursor" in event[1][0])
        names = [name for name, _ in ann.events if name != "receipt"]
        assert names == ["session", "sync", "user connected", "private message", "private message"]
        assert [ann.events[at][1][0]["content"] for at in (3, 4)] == ["lost", "found"]


async def test_many_who_missed_something_are_served_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not refused because too many read at once: to be closed all together would make it worse."""
    monkeypatch.setattr(readers, "MAX_WAITING", 8)
    monkeypatch.setattr(gateway, "CATCH_UPS_AT_ONCE", 4, raising=False)
    bus = LosingBus()
    async with serving(tmp_path / "data", bus=bus, announce_people=0) as inside:
        ann = await ChatClient(inside.url, "ann").connect()
        others = [await ChatClient(inside.url, "bob").connect()]
        bob = others[0]
        others += [await ChatClient(inside.url, "bob", session_id=bob.session_id).connect() for _ in range(29)]
        bus.lost_for.add(bob.user_id)
        await ann.send(bob.user_id, "lost")
        bus.lost_for.clear()
        await ann.send(bob.user_id, "found")
        for each in others:
            await each.wait_for_message("lost")


async def test_the_guides_client_is_closed_and_finds_everything_when_it_is_back(tmp_path: Path) -> None:
    """It has no ids to tell what it sent itself from what is new to it, so it can't be sent a page."""
    bus = LosingBus()
    async with serving(tmp_path / "data", bus=bus, announce_people=0) as inside:
        ann = await ChatClient(inside.url, "ann", guide=True).connect()
        bob, cat = await ChatClient(inside.url, "bob").connect(), await ChatClient(inside.url, "cat").connect()
        bus.lost_for.add(ann.user_id)
        await bob.send(ann.user_id, "lost")
        ann.say(cat.user_id, "my own")
        await cat.wait_for_message("my own")
        bus.lost_for.clear()
        await ann.wait_ended()
        assert not [event for event in ann.events if event[0] == "private message"]
        await ann.connect()
        held = {user["username"]: [each["content"] for each in user["messages"]] for user in ann.users}
        assert held == {"ann": [], "bob": ["lost"], "cat": ["my own"]}


async def test_who_can_not_be_brought_up_to_date_is_closed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Also by an error that nobody foresaw; else the socket would live on and get nothing any more."""
    bus = LosingBus()
    async with serving(tmp_path / "data", bus=bus) as inside:
        ann, bob = await ChatClient(inside.url, "ann").connect(), await ChatClient(inside.url, "bob").connect()
        bus.lost_for.add(ann.user_id)
        await bob.send(ann.user_id, "lost")
        bus.lost_for.clear()
        with inside.store.hold("sync") as gate:
            await bob.send(ann.user_id, "found")
            await gate.reached()
            other = without(inside, "meta")
        await ann.wait_ended()
        other.execute("ALTER TABLE elsewhere RENAME TO meta")
        other.close()
        await ann.connect()
        assert ann.heads == {bob.user_id: 2}
    assert [record.levelno for record in caplog.records if "catch-up" in record.getMessage()] == [logging.ERROR]


async def test_an_error_that_nobody_foresaw_is_answered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(tmp_path / "data") as inside:
        ann, bob = await ChatClient(inside.url, "ann").connect(), await ChatClient(inside.url, "bob").connect()
        await ann.send(bob.user_id, "hello")
        other = without(inside, "meta")
        with pytest.raises(Refused) as refused:
            await ann.history(bob.user_id)
        other.execute("ALTER TABLE elsewhere RENAME TO meta")
        other.close()
        assert refused.value.code == "unavailable"
        assert refused.value.answer["retryAfter"] > 0
        assert len((await ann.history(bob.user_id))["messages"]) == 1
    assert [record.levelno for record in caplog.records if "'history'" in record.getMessage()] == [logging.ERROR]


def without(inside: Inside, table: str) -> apsw.Connection:
    """Take a table away, so that reads fail as no code expects; it's called `elsewhere` meanwhile."""
    connection = apsw.Connection(str(inside.store._folder.database))
    connection.set_busy_timeout(5000)
    connection.execute(f"ALTER TABLE {table} RENAME TO elsewhere")
    return connection
