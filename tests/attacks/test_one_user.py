"""Row 31: what one user asks for in masses is answered or refused, each time, and costs nobody else."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.conftest import StartServer, on_both
from tests.support.client import ChatClient, ConnectionLost, Refused

pytestmark = [pytest.mark.asyncio, on_both]

MESSAGES = 10_000
BURST = 500
PAGES = 5_000
SOCKETS = 1_000
ALLOWED = 300
IN_TIME = 5.0


async def outcomes(asked: list[Awaitable[Any]]) -> Counter[str]:
    """How often each came: `ok`, or the code of a refusal. Anything else, silence above all, fails."""
    counts: Counter[str] = Counter()
    for outcome in await asyncio.gather(*asked, return_exceptions=True):
        if isinstance(outcome, Refused):
            assert outcome.answer["retryAfter"] > 0
            counts[outcome.code] += 1
        else:
            assert not isinstance(outcome, BaseException), outcome
            counts["ok"] += 1
    return counts


@asynccontextmanager
async def undisturbed(one: ChatClient, other: ChatClient) -> AsyncIterator[None]:
    """Two others talk all the while, and each of their messages is stored and delivered in time."""

    async def talk() -> None:
        for count in range(1_000_000):
            await one.send(other.user_id, f"said {count}", timeout=IN_TIME)
            await other.wait_for_message(f"said {count}", timeout=IN_TIME)
            await asyncio.sleep(0.02)

    talking = asyncio.create_task(talk())
    yield
    assert not talking.done(), talking.exception()
    talking.cancel()


async def test_ten_thousand_messages_at_once(start_server: StartServer) -> None:
    server = start_server("--message-rate", "100", "--message-burst", str(BURST))
    async with (
        ChatClient(server.url, "mallory") as mallory,
        ChatClient(server.url, "alice") as alice,
        ChatClient(server.url, "bob") as bob,
        undisturbed(alice, bob),
    ):
        counts = await outcomes([mallory.send(alice.user_id, f"flood {number}") for number in range(MESSAGES)])
        assert set(counts) == {"ok", "rate limited"}
        assert BURST <= counts["ok"] < MESSAGES // 2
        (last,) = (await alice.history(mallory.user_id, limit=1))["messages"]
        assert last["seq"] == counts["ok"], "what was refused was stored, or what was acknowledged was not"


async def test_pages_without_end(start_server: StartServer) -> None:
    server = start_server("--message-rate", "1000000", "--message-burst", "1000000", "--request-limit", "16")
    async with (
        ChatClient(server.url, "mallory") as mallory,
        ChatClient(server.url, "alice") as alice,
        ChatClient(server.url, "bob") as bob,
    ):
        for number in range(200):
            await mallory.send(mallory.user_id, f"{number}" * 100)
        async with undisturbed(alice, bob):
            counts = await outcomes([mallory.history(mallory.user_id, limit=200) for _ in range(PAGES)])
        assert set(counts) == {"ok", "overloaded"}
        assert 16 <= counts["ok"] < PAGES // 2


async def test_a_thousand_sockets_of_one_user(start_server: StartServer) -> None:
    server = start_server("--presence-grace", "0", "--max-user-connections", str(ALLOWED))
    async with (
        ChatClient(server.url, "mallory") as mallory,
        ChatClient(server.url, "alice") as alice,
        ChatClient(server.url, "bob") as bob,
    ):
        sockets = [ChatClient(server.url, "mallory", session_id=mallory.session_id) for _ in range(SOCKETS)]
        try:
            async with undisturbed(alice, bob):
                for start in range(0, SOCKETS, 50):
                    some = sockets[start : start + 50]
                    answers = await asyncio.gather(*(each.connect() for each in some), return_exceptions=True)
                    assert all(isinstance(each, ChatClient | ConnectionLost) for each in answers), answers
                served = [each for each in sockets if each.connected]
                assert len(served) == ALLOWED - 1
                await alice.send(mallory.user_id, "x" * 8_000, timeout=IN_TIME)
                await asyncio.gather(*(each.wait_for_message("x" * 8_000) for each in (mallory, *served)))
        finally:
            for each in sockets:
                each.cut()
        await alice.send(mallory.user_id, "to the one that is left")
        await mallory.wait_for_message("to the one that is left")
