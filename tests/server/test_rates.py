"""Allowances can't be had again by leaving and coming back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from duologue.domain import rate
from tests.support.client import ChatClient, Refused
from tests.support.inside import MovedClock, serving

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
