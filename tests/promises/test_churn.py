"""F28: people come and go, again and again, and nothing of it stays: no memory, descriptor, task, timer or table row."""

from __future__ import annotations

import asyncio
import gc
from pathlib import Path
from typing import Any

import pytest

from duologue.store.postgres.store import READERS
from tests.conftest import StartServer, on_both, on_both_in_time
from tests.support.client import ChatClient
from tests.support.inside import serving
from tests.support.watched import what_it_holds

pytestmark = pytest.mark.asyncio

PEOPLE = 60
KINDS: tuple[dict[str, Any], ...] = ({}, {"guide": True}, {"transport": "polling"})
"""How people connect, in turn."""

SETTLES = 3
"""The rounds in which a server may still grow: caches, the allocator's arenas, pages of the database."""


LEAK = 400
"""Bytes for each connect that would be a leak: less than the smallest object that a connection could leave behind with
what it refers to."""

KEPT = 2.0
"""Of Python's blocks of memory for each connect; a connection that's gone and kept would take dozens."""

POOL = 1_500_000
"""Bytes that a node's connections to PostgreSQL may still grow by: each prepares each statement when it first needs it."""


async def come_and_go(url: str, sessions: list[str | None], at_once: int) -> None:
    """Everybody signs in, in different ways, and leaves: some politely, some without a word."""

    async def once(number: int) -> None:
        kind = KINDS[number % len(KINDS)]
        client = ChatClient(url, f"person {number}", session_id=sessions[number], **kind)
        await client.connect(timeout=60)
        sessions[number] = client.session_id
        if number % 2:
            await client.close()
        else:
            client.cut()

    for start in range(0, len(sessions), at_once):
        await asyncio.gather(*(once(number) for number in range(start, min(start + at_once, len(sessions)))))


async def strangers_knock(port: int, times: int) -> None:
    """Connections that say nothing, or nothing that makes sense."""
    for number in range(times):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        if number % 2:
            writer.write(b"GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n")
        writer.transport.abort()


async def churn(start_server: StartServer, rounds: int, connects: int) -> None:
    """Descriptors come back to where they were; memory stops growing."""
    server = start_server(*ALLOWANCE, module="tests.support.watched")
    sessions: list[str | None] = [None] * PEOPLE
    await come_and_go(server.url, sessions, at_once=20)
    memory: list[int] = []
    descriptors: list[int] = []
    blocks: list[int] = []
    for number in range(rounds):
        for _ in range(connects // PEOPLE):
            await come_and_go(server.url, sessions, at_once=20)
            await strangers_knock(server.port, 10)
        async with ChatClient(server.url, "person 0", session_id=sessions[0]) as witness:
            await witness.request("directory", {})  # behind everything that the others left to do
        memory.append(server.rss())
        descriptors.append(server.descriptors())
        if number in (SETTLES - 1, rounds - 1):  # collecting each time would hide garbage that piles up
            blocks.append((await asyncio.to_thread(what_it_holds, server, collect=True)).blocks)
    print("memory", memory, "descriptors", descriptors, "blocks", blocks)
    settled, grown = memory[SETTLES - 1], memory[-1] - memory[SETTLES - 1]
    measured = connects * (rounds - SETTLES)
    pool, connections = (POOL, READERS) if start_server.one_node else (0, 0)
    assert grown < min(LEAK * measured, settled * 0.05) + pool, memory
    assert blocks[-1] - blocks[0] < KEPT * measured, blocks
    assert descriptors[-1] <= max(descriptors[:SETTLES]) + 2 + connections, descriptors


ALLOWANCE = ("--connect-rate", "1000000", "--connect-burst", "1000000", "--presence-grace", "0")


@on_both_in_time
@pytest.mark.timeout(180)
async def test_churn_levels_off(start_server: StartServer) -> None:
    await churn(start_server, rounds=8, connects=240)


@on_both
@pytest.mark.torture
@pytest.mark.timeout(7200)
async def test_churn_levels_off_in_the_long_run(start_server: StartServer) -> None:
    await churn(start_server, rounds=20, connects=10_000)


async def test_churn_leaves_no_task_timer_or_structure(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", presence_grace=0) as inside:
        sessions: list[str | None] = [None] * PEOPLE
        counts: list[tuple[int, int]] = []
        for _ in range(3):
            await come_and_go(inside.url, sessions, at_once=20)
            await inside.all_gone()
            gc.collect()
            counts.append((len(asyncio.all_tasks()), inside.timers()))
        assert counts[0] == counts[1] == counts[2], counts
        assert counts[0][1] == 0
