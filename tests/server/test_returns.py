"""How far apart clients should come back, which they are told before it matters."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from duologue.server import returns
from tests.support.client import ChatClient
from tests.support.inside import Inside, serving

pytestmark = pytest.mark.asyncio


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(returns, "FEW", 4)
    monkeypatch.setattr(returns, "PER_SECOND", 2)


async def come(inside: Inside, count: int, **form: Any) -> list[ChatClient]:
    return [await ChatClient(inside.url, f"user {number}", **form).connect() for number in range(count)]


def told_at_sync(client: ChatClient) -> int:
    time: int = client.pages[0]["server"]["returnWithin"]
    return time


async def told_later(client: ChatClient) -> list[int]:
    await client.request("typing", {"to": "0" * 16})  # whatever was sent before has come
    return [arguments[0]["returnWithin"] for name, arguments in client.events if name == "server"]


async def test_the_time_grows_with_the_sockets_and_everybody_hears_of_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        clients = await come(inside, 10)
        assert [told_at_sync(each) for each in clients] == [0, 0, 0, 0, 2_500, 3_000, 3_500, 4_000, 4_500, 5_000]
        # At 6 (of 4) and at 8 (of 6).
        assert await told_later(clients[0]) == [3_000, 4_000]
        assert await told_later(clients[6]) == [4_000]
        assert await told_later(clients[9]) == []
        for client in clients:
            await client.close()


async def test_after_many_have_left_it_is_told_anew_when_they_come_back(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        first, *others = await come(inside, 10)
        for client in others:
            await client.close()
        await inside.until(lambda: inside.gateway.hub.sockets == 1)
        others = await come(inside, 6)
        assert [told_at_sync(each) for each in others] == [0, 0, 0, 2_500, 3_000, 3_500]
        assert await told_later(first) == [3_000, 4_000, 3_000]
        for client in (first, *others):
            await client.close()


async def test_the_guides_clients_hear_nothing_of_it(tmp_path: Path) -> None:
    async with serving(tmp_path / "data") as inside:
        clients = await come(inside, 8, guide=True)
        assert await told_later(clients[0]) == []
        for client in clients:
            await client.close()
