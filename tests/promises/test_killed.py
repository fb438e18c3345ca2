"""F1: the process is killed at any moment, under load, and nothing that it acknowledged is lost, repeated or reordered."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

import pytest

from tests.conftest import StartServer, on_both
from tests.support.client import ChatClient
from tests.support.process import ServerProcess
from tests.support.talk import Talk

pytestmark = [pytest.mark.asyncio, on_both]

MOST_ACKS_PER_LIFE = 120
UP_AGAIN_WITHIN = 5.0
"""Seconds, from faults.md."""


async def kill_again_and_again(server: ServerProcess, rng: random.Random, times: int) -> None:
    await run_against(server, rng, times, server.kill)


async def run_against(server: ServerProcess, rng: random.Random, times: int, harm: Callable[[], object]) -> None:
    """Let people talk, do harm at a random moment, start the server again on the same data, and judge everything."""
    talk = Talk(lambda name, record: ChatClient(server.url, name, record), rng)
    await talk.begin()
    talking = asyncio.create_task(talk.talk())
    for _ in range(times):
        async with asyncio.timeout(60):
            await talk.record.acknowledged(rng.randrange(1, MOST_ACKS_PER_LIFE))
        await asyncio.to_thread(harm)
        began = time.monotonic()
        await asyncio.to_thread(server.start)
        assert time.monotonic() - began < UP_AGAIN_WITHIN
        assert not talking.done()
    async with asyncio.timeout(60):
        await talk.record.acknowledged(20)
        talk.stop()
        await talking
        await talk.judge()
        await talk.end()


@pytest.mark.timeout(240)
async def test_some_kills(start_server: StartServer, rng: random.Random) -> None:
    # A node of several dies in tests/nodes as well.
    await kill_again_and_again(start_server(), rng, 2 if start_server.one_node else 4)


@pytest.mark.torture
@pytest.mark.timeout(7200)
async def test_five_hundred_kills(start_server: StartServer, rng: random.Random) -> None:
    await kill_again_and_again(start_server(), rng, 500)


@pytest.mark.timeout(120)
async def test_restarts_under_load(start_server: StartServer, rng: random.Random) -> None:
    """F15, seen from those who go on talking; test_drained.py looks at what was in flight."""
    server = start_server()

    def terminate() -> None:
        began = time.monotonic()
        assert server.terminate() == 0
        assert time.monotonic() - began < 10

    await run_against(server, rng, 3, terminate)
