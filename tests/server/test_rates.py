"""Allowances can't be had again by leaving and coming back."""

from __future__ import annotations

import asyncio
import uuid
from pathlib import Path

import msgspec
import pytest

from duologue.domain import rate
from tests.support.client import ChatClient, Refused
from tests.support.composition import Chat
from tests.support.inside import LIMITS, MovedClock, serving
from tests.support.pipe import Pipe

pytestmark = pytest.mark.asyncio

BURST = 10
SLOW = 0.01


async def spend(client: ChatClient, number: int) -> None:
    for _ in range(number):
        await client.request("typing", {"to": client.user_id})


async def sign_in_again(client: ChatClient) -> bool:
    """Leave the namespace and enter it as another guest, on the same connection. False if that is the end of it."""
    client.events.clear()
    client.send_packet(b"1")
    client.send_packet(b'0{"username":"another"}')
    ways = [asyncio.create_task(client.wait_for_event("users")), asyncio.create_task(client.wait_ended())]
    await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
    for way in ways:
        way.cancel()
    await asyncio.gather(*ways, return_exceptions=True)
    return client.connected


@pytest.mark.parametrize("guide", [False, True])
async def test_coming_back_refills_no_allowance(tmp_path: Path, guide: bool) -> None:
    clock = MovedClock()
    async with serving(tmp_path / "data", clock=clock, message_rate=SLOW, message_burst=BURST) as inside:
        ann = await ChatClient(inside.url, "ann", guide=guide).connect()
        await spend(ann, BURST)
        for _ in range(3):
            with pytest.raises(Refused) as refused:
                await ann.send(ann.user_id, "one more")
            assert refused.value.code == "rate limited"
            assert 0 < refused.value.answer["retryAfter"] <= 1 / SLOW
            ann.cut()
            await inside.sockets_left(0)
            await ann.connect()
        clock.ahead += 1 / SLOW
        await spend(ann, 1)
        clock.ahead += BURST / SLOW
        await spend(ann, BURST)


async def test_what_comes_in_one_turn_is_taken_up_to_the_allowance_and_all_after_it_refused(tmp_path: Path) -> None:
    """Also if the allowance grows meanwhile: nothing overtakes what was refused before it."""
    clock = MovedClock()
    chat = await Chat.open(
        tmp_path / "data", clock, msgspec.structs.replace(LIMITS, message_rate=SLOW, message_burst=BURST)
    )
    ann = Pipe(chat.transport)
    ann.connect({"username": "ann"})
    await ann.until(lambda: any(name == "users" for name, _ in ann.events))
    own_id = next(body["userID"] for name, body in ann.events if name == "session")
    ids = []
    for number in range(3 * BURST):
        if number == 2 * BURST:
            clock.ahead += 5 / SLOW
        id = ann.emit("private message", {"to": own_id, "content": "x", "id": str(uuid.uuid4())})
        assert id is not None
        ids.append(id)
    last = ann.emit("typing", {"to": own_id})
    assert last is not None
    await ann.until(lambda: {*ids, last} <= set(ann.acks))
    answers = [ann.acks[id] for id in ids]
    assert [answer.get("seq") for answer in answers] == [*range(1, BURST + 1), *[None] * 2 * BURST]
    assert {answer["error"] for answer in answers[BURST:]} == {"rate limited"}
    assert all(0 < answer["retryAfter"] <= 1 / SLOW for answer in answers[BURST:])
    assert ann.acks[last] == {}, "what is no write is asked for by itself"
    answer = await ann.ask("private message", {"to": own_id, "content": "x", "id": str(uuid.uuid4())})
    assert answer["seq"] == BURST + 1
    assert ann.broken == []
    await chat.leave()


async def test_of_those_who_left_only_unpaid_allowances_are_kept_and_not_too_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rate, "MAX_BUCKETS", 3)
    clock = MovedClock()
    async with serving(tmp_path / "data", clock=clock, message_rate=SLOW, message_burst=BURST) as inside:
        for number in range(6):
            client = await ChatClient(inside.url, f"person {number}").connect()
            await spend(client, number)
            client.cut()
            await inside.sockets_left(0)
            assert len(inside.gateway.senders) == min(number, 3)
        clock.ahead += BURST / SLOW
        last = await ChatClient(inside.url, "last").connect()
        await spend(last, 1)
        last.cut()
        await inside.sockets_left(0)
        assert len(inside.gateway.senders) == 1


async def test_signing_in_again_and_again_on_one_connection_counts_as_connecting_does(tmp_path: Path) -> None:
    """Each makes a guest; without a bound one connection fills the disk with them."""
    clock = MovedClock()
    async with serving(tmp_path / "data", clock=clock, connect_rate=SLOW, connect_burst=BURST) as inside:
        ann = await ChatClient(inside.url, "ann", guide=True).connect()
        times = 1
        while times <= BURST and await sign_in_again(ann):
            times += 1
        assert times == BURST
        assert inside.store.people_count() <= BURST
        clock.ahead += BURST / SLOW
        await ChatClient(inside.url, "bob", guide=True).connect()
