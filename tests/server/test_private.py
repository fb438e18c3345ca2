"""P7: of a conversation nobody but its two sides gets anything, however they listen, and strangers move nothing in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.client import ChatClient, Refused
from tests.support.inside import Inside, serving

pytestmark = pytest.mark.asyncio

PRESENCE = {"session", "users", "sync", "user connected", "user disconnected"}
NOBODY = "0123456789abcdef"


async def talk(alice: ChatClient, bob: ChatClient) -> None:
    """Every event that a conversation has."""
    await alice.send(bob.user_id, "hello")
    await bob.wait_for_message("hello")
    await bob.request("received", {"with": alice.user_id, "seq": 1})
    await bob.request("read", {"with": alice.user_id, "seq": 1})
    await bob.request("typing", {"to": alice.user_id})
    bob.say(alice.user_id, "good morning")
    await alice.wait_for_message("good morning")
    assert {name for name, _ in alice.events} > {"private message", "receipt", "typing"}


async def listeners(inside: Inside, alice: ChatClient, bob: ChatClient) -> list[ChatClient]:
    carol = await ChatClient(inside.url, "carol").connect()
    await carol.request("watch", {"users": [alice.user_id, bob.user_id]})
    return [
        carol,
        await ChatClient(inside.url, "carol", session_id=carol.session_id, guide=True).connect(),
        await ChatClient(inside.url, "carol", session_id=carol.session_id, guide=True, transport="polling").connect(),
    ]


@pytest.mark.parametrize("announce_people", [1000, 0], ids=["few people", "many people"])
async def test_whoever_listens_gets_presence_at_most(tmp_path: Path, announce_people: int) -> None:
    async with serving(tmp_path / "data", announce_people=announce_people) as inside:
        alice, bob = await ChatClient(inside.url, "alice").connect(), await ChatClient(inside.url, "bob").connect()
        carols = await listeners(inside, alice, bob)
        await talk(alice, bob)
        for carol in carols:
            await carol.request("typing", {"to": NOBODY})  # what was sent to her before this came before its answer
            assert {name for name, _ in carol.events} <= PRESENCE
        again = await ChatClient(inside.url, "carol", session_id=carols[0].session_id).connect()
        assert again.pages[0]["conversations"] == []
        tab = await ChatClient(inside.url, "carol", session_id=carols[0].session_id, guide=True).connect()
        assert not [user for user in tab.users if user["messages"]]
        assert len(tab.users) == (3 if announce_people else 1)
        for peer in (alice, bob):
            assert await carols[0].request("history", {"with": peer.user_id}) == {"messages": [], "more": False}
        for client in (*carols, tab):
            await client.close()


async def test_a_stranger_moves_nothing_and_learns_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        alice, bob = await ChatClient(inside.url, "alice").connect(), await ChatClient(inside.url, "bob").connect()
        await talk(alice, bob)
        before = len(alice.events)
        carol = await ChatClient(inside.url, "carol").connect()
        for event in ("received", "read"):
            assert await carol.request(event, {"with": alice.user_id, "seq": 2}) == {"received": 0, "read": 0}
        # Whether somebody is online shows in no answer but those that are about presence.
        bob.cut()
        await inside.sockets_left(2)
        answers = [await carol.request("typing", {"to": peer}) for peer in (alice.user_id, bob.user_id, NOBODY)]
        assert answers == [{}, {}, {}]
        for event, argument in (
            ("private message", {"content": "x", "to": NOBODY}),
            ("received", {"with": NOBODY, "seq": 1}),
            ("history", {"with": NOBODY}),
        ):
            with pytest.raises(Refused) as refused:
                await carol.request(event, argument)
            assert refused.value.code == "unknown user"
        await alice.request("typing", {"to": NOBODY})
        assert [name for name, _ in alice.events[before:]] == ["typing"]
        again = await ChatClient(inside.url, "alice", session_id=alice.session_id).connect()
        (conversation,) = again.pages[0]["conversations"]
        assert conversation["with"]["userID"] == bob.user_id
