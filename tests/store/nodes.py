"""Nodes that share a database, each with a store of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from duologue.domain.model import User
from duologue.store.postgres.connection import connect

from .conftest import ANN, BOB, CAT, Bench

LOCK_PATIENCE = 20.0
"""Seconds until a statement that has to wait for a lock is waiting."""

# A writing connection is known by the lock with which it keeps migrations out.
END_WRITERS = """
    SELECT pg_terminate_backend(pid) FROM pg_locks
    JOIN pg_database ON pg_database.oid = database AND datname = current_database()
    WHERE locktype = 'advisory' AND mode = 'ShareLock'
"""


@asynccontextmanager
async def nodes(url: str, count: int, users: Sequence[User] = (ANN, BOB, CAT)) -> AsyncIterator[list[Bench]]:
    async with AsyncExitStack() as stack:
        made = []
        for _ in range(count):
            bench = Bench(url)
            await bench.open()
            stack.push_async_callback(bench.close)
            made.append(bench)
        await made[0].people(*users)
        yield made


@asynccontextmanager
async def session(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await connect(url)
    try:
        yield connection
    finally:
        connection.terminate()


async def until_waiting_for_a_lock(connection: asyncpg.Connection[asyncpg.Record], count: int) -> None:
    """Return when so many statements wait for somebody else's lock."""
    async with asyncio.timeout(LOCK_PATIENCE):
        while count > await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)
