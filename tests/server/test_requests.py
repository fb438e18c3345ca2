"""The events that read: a bounded number at once, each answered, none for somebody who has left."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.client import ChatClient, ConnectionLost, Refused
from tests.support.inside import serving

pytestmark = pytest.mark.asyncio

LIMIT = 4


async def test_a_socket_has_so_many_requests_under_way_and_then_again(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", request_limit=LIMIT) as inside:
        ann, bob = await ChatClient(inside.url, "ann").connect(), await ChatClient(inside.url, "bob").connect()
        for _ in range(3):
            with inside.store.hold("history") as gate:
                asked = [asyncio.create_task(ann.history(bob.user_id)) for _ in range(LIMIT)]
                await gate.reached(LIMIT)
                with pytest.raises(Refused) as refused:
                    await ann.history(bob.user_id)
                assert refused.value.code == "overloaded"
                assert refused.value.answer["retryAfter"] > 0
                await ann.send(bob.user_id, "a message waits for no request")
            pages = await asyncio.gather(*asked)
            assert all(page["messages"] for page in pages)


async def test_who_leaves_takes_their_requests_along(tmp_path: Path) -> None:
    """Else whoever asks, leaves and comes back fills the store's line with reads that nobody waits for."""
    async with serving(tmp_path / "data", request_limit=LIMIT) as inside:
        bob = await ChatClient(inside.url, "bob").connect()
        ann = await ChatClient(inside.url, "ann").connect()
        with inside.store.hold("history") as gate:
            for times in (1, 2, 3):
                asked = [asyncio.create_task(ann.history(bob.user_id)) for _ in range(LIMIT)]
                await gate.reached(times * LIMIT)
                ann.cut()
                answers = await asyncio.gather(*asked, return_exceptions=True)
                assert {type(answer) for answer in answers} == {ConnectionLost}
                await inside.until(lambda: inside.kept()["tasks"] == [])
                await ann.connect()
            ann.cut()
            bob.cut()
            await inside.all_gone()
