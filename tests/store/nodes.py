"""Nodes that share a database, each with a store of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg

from duologue.domain.model import User
from duologue.store.postgres.connection import connect

from .conftest import ANN, BOB, CAT, Bench

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
