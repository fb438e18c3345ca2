"""The second look: not too early, in batches, again after a failure, and bounded."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from duologue.server import second_look as module
from duologue.server.second_look import SecondLook

pytestmark = pytest.mark.asyncio

MOMENT = 0.05
"""Seconds from the first look to the second."""

PATIENCE = 10.0


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECOND_LOOK", MOMENT)


@asynccontextmanager
async def running(look: Callable[[list[str]], Awaitable[None]]) -> AsyncIterator[SecondLook]:
    second = SecondLook(look)
    task = asyncio.create_task(second.run())
    yield second
    assert not task.done()
    task.cancel()
    await asyncio.wait([task])


async def test_nobody_is_looked_at_too_early_or_alone() -> None:
    noted: dict[str, float] = {}
    batches: list[list[str]] = []
    done = asyncio.Event()

    async def look(keys: list[str]) -> None:
        now = time.monotonic()
        assert all(now - noted[key] >= MOMENT * 0.99 for key in keys)
        batches.append(keys)
        if sum(map(len, batches)) == 20:
            done.set()

    async with running(look) as second, asyncio.timeout(PATIENCE):
        for number in range(20):
            noted[str(number)] = time.monotonic()
            second.note(str(number))
            await asyncio.sleep(MOMENT / 10)
        await done.wait()
    assert [key for keys in batches for key in keys] == list(noted)
    assert len(batches) < 10
    assert len(second) == 0


async def test_what_fails_is_looked_at_again_with_who_came_meanwhile() -> None:
    looks: list[list[str]] = []
    done = asyncio.Event()

    async def look(keys: list[str]) -> None:
        looks.append(keys)
        if len(looks) == 1:
            second.note("bob")
            raise AttributeError("on purpose")
        done.set()

    async with running(look) as second, asyncio.timeout(PATIENCE):
        second.note("ann")
        await done.wait()
    assert looks == [["ann"], ["ann", "bob"]]


async def test_those_who_wait_are_bounded(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    looks: list[list[str]] = []
    done = asyncio.Event()

    async def look(keys: list[str]) -> None:
        looks.append(keys)
        done.set()

    async with running(look) as second, asyncio.timeout(PATIENCE):
        for key in ("ann", "bob", "cat", "ann"):
            second.note(key)
        await done.wait()
    assert looks == [["ann", "bob"]]
    assert caplog.text.count("left out") == 1
