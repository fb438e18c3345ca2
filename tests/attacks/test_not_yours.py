"""Rows 19, 20, 22, 23 and 24: nobody reads, moves or invents anything in a conversation that they are not in."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import pytest
import pytest_asyncio

from tests.attacks.conftest import shared_on_both
from tests.support.client import ChatClient, Refused
from tests.support.process import ServerProcess

pytestmark = [pytest.mark.asyncio, shared_on_both]

FENCE = "nothing came before this"


class Three(NamedTuple):
    alice: ChatClient
    bob: ChatClient
    mallory: ChatClient


@pytest_asyncio.fixture
async def three(chat_server: ServerProcess) -> AsyncIterator[Three]:
    """Alice and Bob have said three things to each other; Mallory has talked with nobody."""
    async with (
        ChatClient(chat_server.url, "alice") as alice,
        ChatClient(chat_server.url, "bob") as bob,
        ChatClient(chat_server.url, "mallory") as mallory,
    ):
        await alice.send(bob.user_id, "between us: one")
        await bob.send(alice.user_id, "between us: two")
        await alice.send(bob.user_id, "between us: three")
        yield Three(alice, bob, mallory)


async def everything_told(reader: ChatClient, by: ChatClient) -> str:
    """All that `reader` was told since their connect; a last message of `by` shows that it's all."""
    await by.send(reader.user_id, FENCE)
    await reader.wait_for_message(FENCE)
    return json.dumps(reader.events)


async def code_of(client: ChatClient, event: str, argument: Any) -> str:
    """`ok` or the code of the refusal."""
    try:
        await client.request(event, argument)
    except Refused as refused:
        return refused.code
    return "ok"


def not_a_user(three: Three) -> list[str]:
    """What is a name inside the server, or looks like one, but nobody's id."""
    alice, bob = three.alice.user_id, three.bob.user_id
    low, high = sorted((alice, bob))
    in_capitals = {alice.upper()} - {alice}  # One id in 1,800 has digits alone: in capitals it's still Alice's.
    return [
        f"{low}:{high}", f"{low}{high}", f"{low}-{high}", f"{low}.{high}", f"{low} {high}",
        *in_capitals, f" {alice}", f"{alice}\n", alice[:15], f"{alice[:15]}\u0660", f"{alice}\0", f"{alice[:15]}*",
        "1", "0", "*", ">", "a.b", "%", "_" * 16, "%" * 16, "*" * 16, ">" * 16, "\0" * 16, "\U0001f600" * 16, "'" * 16,
        f"user {alice}", f"/#{alice}", "__proto__", "constructor", "message", "dialog", "",
    ]  # fmt: skip


async def test_who_is_not_in_a_conversation_learns_nothing_of_it(three: Three, chat_server: ServerProcess) -> None:
    alice, bob, mallory = three
    for peer in (alice.user_id, bob.user_id, mallory.user_id):
        for place in ({}, {"before": 1}, {"after": 0}, {"limit": 200}):
            assert (await mallory.history(peer, **place)) == {"messages": [], "more": False}
        for position in (1, 2, 3):
            with pytest.raises(Refused, match="unknown cursor"):
                await mallory.history(peer, before=position + 1)
    again = ChatClient(chat_server.url, "mallory", session_id=mallory.session_id)
    async with again:
        assert again.pages[0]["conversations"] == []
        told = await everything_told(mallory, again)
    assert "between us" not in told


async def test_a_cursor_of_another_user_shows_ones_own_alone(three: Three, chat_server: ServerProcess) -> None:
    """Cursors are positions, no secrets: whoever takes another's, or makes one up, sees their own conversations."""
    alice, _, mallory = three
    assert alice.cursor is not None
    epoch, _, version = alice.cursor.partition(".")
    forged = [
        alice.cursor,
        f"{epoch}.0",
        f"{epoch}.{int(version) + 1}",
        f"{epoch}.{2**53}",
        f"{epoch}.-1",
        f"{epoch}.1e3",
    ]
    for since in (*forged, "", ".", f"{epoch}.", epoch, "x.1", f"{epoch}.00", f"{epoch}.\u0661", "0" * 5_000):
        for next in ("0", "1", str(2**53)):
            page = await mallory.request("sync", {"since": since, "next": next})
            assert page["conversations"] == []
        other = ChatClient(chat_server.url, "mallory", session_id=mallory.session_id)
        other.cursor = since
        async with other:
            assert other.pages[0]["conversations"] == []
    for next in ("-1", "1.0", "x", "", "9" * 17, str(2**53 + 1), "\u0661", "0x1", " 1"):
        assert await code_of(mallory, "sync", {"since": None, "next": next}) == "unknown cursor"


async def test_marks_of_a_stranger_move_nothing(three: Three) -> None:
    alice, bob, mallory = three
    for peer in (alice.user_id, bob.user_id):
        for event in ("received", "read"):
            for seq in (0, 1, 3, 2**53):
                answer = await mallory.request(event, {"with": peer, "seq": seq})
                assert answer == {"received": 0, "read": 0}
    assert '"receipt"' not in await everything_told(bob, mallory)
    alice.cut()
    await alice.connect()
    entry = next(each for each in alice.pages[0]["conversations"] if each["with"]["userID"] == bob.user_id)
    assert entry["peerRead"] == 2


@pytest.mark.parametrize("event", ["private message", "history", "received", "read", "typing"])
async def test_names_of_internal_things_are_nobody(three: Three, event: str) -> None:
    """A conversation's id, a subject of a bus, a pattern, a room, another form of somebody's id: all the same answer."""
    alice, bob, mallory = three
    for name in not_a_user(three):
        argument = {"with": name, "to": name, "seq": 1, "content": "x", "from": alice.user_id}
        assert await code_of(mallory, event, argument) == "unknown user", name
    for reader in (alice, bob):
        told = await everything_told(reader, mallory)
        assert '"typing"' not in told
        assert '"receipt"' not in told


async def test_a_watch_and_the_directory_take_ids_alone(three: Three) -> None:
    alice, _, mallory = three
    assert (await mallory.request("watch", {"users": not_a_user(three)})) == {"people": []}
    answer = await mallory.request("watch", {"users": [*not_a_user(three), alice.user_id, alice.user_id]})
    assert [person["userID"] for person in answer["people"]] == [alice.user_id]
    for person in answer["people"]:
        assert set(person) == {"userID", "username", "connected", "lastSeen"}
    for name in not_a_user(three):
        assert await code_of(mallory, "directory", {"after": name}) == "unknown cursor"


LONE = b'"' + b"\\ud800" * 16 + b'"'


@pytest.mark.parametrize(
    "packet",
    [
        b'["private message",{"content":"x","to":' + LONE + b"}]",
        b'["read",{"with":' + LONE + b',"seq":1}]',
        b'["received",{"with":' + LONE + b',"seq":1}]',
        b'["typing",{"to":' + LONE + b"}]",
        b'["history",{"with":' + LONE + b"}]",
        b'["watch",{"users":[' + LONE + b"]}]",
        b'["directory",{"after":' + LONE + b"}]",
    ],
    ids=lambda packet: json.loads(packet)[0],
)
async def test_a_name_without_a_form_on_disk_harms_no_batch(three: Three, packet: bytes) -> None:
    """Sixteen lone surrogates have an id's length, but can't be written: only who sent them is refused."""
    alice, bob, mallory = three
    sends = [alice.send(bob.user_id, f"beside it {number}") for number in range(20)]
    mallory.send_packet(b"2" + packet)
    await asyncio.gather(*sends)
    assert "between us" not in await everything_told(mallory, alice)
    assert mallory.connected


async def test_what_a_payload_says_of_its_sender_is_ignored(three: Three) -> None:
    alice, bob, mallory = three
    lies = {
        "from": alice.user_id, "sender": alice.user_id, "userID": alice.user_id, "seq": 999, "rev": 999, "at": 1,
        "version": 999, "cursor": "x.999", "connected": False, "__proto__": {"from": alice.user_id},
    }  # fmt: skip
    ack = await mallory.request("private message", {"content": "a lie", "to": bob.user_id, **lies})
    assert ack["seq"] == 1
    assert ack["at"] > 1_000_000_000_000
    mallory.emit("private message", {"content": "another", "to": bob.user_id, **lies})
    for content, seq in (("a lie", 1), ("another", 2)):
        message = await bob.wait_for_message(content)
        assert (message["from"], message["to"], message["seq"]) == (mallory.user_id, bob.user_id, seq)
        assert set(message) == {"content", "from", "to", "id", "seq", "rev", "at", "cursor"}
    await mallory.request("typing", {"to": bob.user_id, **lies})
    assert await bob.wait_for_event("typing") == [{"from": mallory.user_id}]
    await mallory.request("read", {"with": bob.user_id, **lies, "seq": 2})
    (page,) = [await bob.history(alice.user_id)]
    assert [message["content"] for message in page["messages"]] == [
        f"between us: {each}" for each in ("one", "two", "three")
    ]


async def test_ids_of_other_people_and_other_conversations_do_not_collide(three: Three) -> None:
    alice, bob, mallory = three
    id = str(uuid.uuid4())
    await alice.send(bob.user_id, "alice's", id=id)
    await mallory.send(bob.user_id, "mallory's", id=id)
    await bob.send(alice.user_id, "bob's own", id=id)
    await mallory.send(alice.user_id, "another conversation", id=id)
    first = await mallory.send(mallory.user_id, "oneself", id=id)
    assert await mallory.send(mallory.user_id, "oneself", id=id) == first
    for client, peer in ((alice, bob), (mallory, bob), (bob, alice)):
        assert await code_of(client, "private message", {"content": "else", "to": peer.user_id, "id": id}) == "conflict"
    assert [each["content"] for each in (await bob.history(mallory.user_id))["messages"]] == ["mallory's"]
    assert [each["content"] for each in (await alice.history(bob.user_id))["messages"]][3:] == ["alice's", "bob's own"]


ODD_POSITIONS: tuple[Any, ...] = (
    -1,
    -(2**53),
    2**53 + 1,
    2**63,
    2**64,
    10**30,
    1.5,
    "1",
    "",
    True,
    False,
    None,
    [],
    {},
    [1],
)


async def test_odd_positions(three: Three) -> None:
    alice, bob, _ = three
    for odd in ODD_POSITIONS:
        for event in ("read", "received"):
            assert await code_of(bob, event, {"with": alice.user_id, "seq": odd}) == "bad request", (event, odd)
        for field in ("before", "after", "limit"):
            if odd is not None:
                expected = ("bad request", "unknown cursor") if field != "limit" else ("bad request",)
                assert await code_of(bob, "history", {"with": alice.user_id, field: odd}) in expected, (field, odd)
    assert await code_of(bob, "history", {"with": alice.user_id, "before": 2**53}) == "unknown cursor"
    for limit in (0, 201):
        assert await code_of(bob, "history", {"with": alice.user_id, "limit": limit}) == "bad request"
    assert await bob.request("read", {"with": alice.user_id, "seq": 2**53}) == {"received": 2, "read": 2}
    assert await bob.request("read", {"with": alice.user_id, "seq": 3}) == {"received": 3, "read": 3}
    assert await bob.request("received", {"with": alice.user_id, "seq": 0}) == {"received": 3, "read": 3}


@pytest.mark.parametrize(
    "number", [b"1" * 4_000, b"1e400", b"3.5", b"0x1", b"01", b"+1", b"NaN", b"Infinity", b"1_0", b"--1", b"\xd9\xa1"]
)
async def test_numbers_that_are_none(three: Three, number: bytes) -> None:
    """What is JSON is refused by an event, what isn't ends the connection; the position stays either way."""
    alice, bob, _ = three
    async with ChatClient(bob.url, "bob", session_id=bob.session_id) as hostile:
        hostile.send_packet(b'2["read",{"with":"%b","seq":%b}]' % (alice.user_id.encode(), number))
        refused = asyncio.ensure_future(hostile.wait_for_event("refused"))
        ended = asyncio.ensure_future(hostile.wait_ended())
        await asyncio.wait((refused, ended), return_when=asyncio.FIRST_COMPLETED)
        if refused.done():
            assert (await refused)[0]["error"] == "bad request"
        for waiting in (refused, ended):
            waiting.cancel()
    assert (await bob.request("received", {"with": alice.user_id, "seq": 0}))["read"] == 2
