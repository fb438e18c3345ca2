"""Ends of sessions are heard of from the database itself, by every node, as soon as they're committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from duologue.store.postgres import PostgresStore, ends

from .conftest import ANN, BOB, Bench
from .nodes import nodes, session

pytestmark = pytest.mark.asyncio

IN_TIME = 1.0
"""Seconds, from the issue."""

PATIENCE = 10.0

_LISTENERS = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'"


class Ear:
    """What one node hears."""

    def __init__(self, bench: Bench) -> None:
        self.ended: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue()
        self.missed: asyncio.Queue[None] = asyncio.Queue()
        assert isinstance(bench.store, PostgresStore)
        bench.store.hear_session_ends(lambda *end: self.ended.put_nowait(end), lambda: self.missed.put_nowait(None))

    async def next(self, within: float = IN_TIME) -> tuple[str, bytes]:
        async with asyncio.timeout(within):
            return await self.ended.get()

    async def is_connected(self) -> None:
        """Wait until what ended before has to be looked for, for what ends from now on is heard."""
        async with asyncio.timeout(PATIENCE):
            await self.missed.get()


@asynccontextmanager
async def hearing(database: str) -> AsyncIterator[tuple[list[Bench], list[Ear], asyncpg.Connection[asyncpg.Record]]]:
    """Two nodes, and a connection of somebody else's."""
    async with nodes(database, 2, (ANN, BOB)) as benches, session(database) as other:
        ears = [Ear(bench) for bench in benches]
        for ear in ears:
            await ear.is_connected()
        yield benches, ears, other


async def test_every_node_hears_of_each_end_once(database: str) -> None:
    async with hearing(database) as (benches, ears, _):
        for user, bench in ((ANN, benches[0]), (BOB, benches[1])):
            token_hash = user.id.encode()
            await bench.store.end_session(token_hash)
            assert [await ear.next() for ear in ears] == [(user.id, token_hash)] * 2
            await bench.store.end_session(token_hash)  # again, as a client may ask
        assert all(ear.ended.empty() for ear in ears)


async def test_a_lost_connection_is_made_anew_and_what_was_missed_is_looked_for(database: str) -> None:
    async with hearing(database) as (benches, ears, other):
        listeners = [pid for (pid,) in await other.fetch(_LISTENERS)]
        assert len(listeners) == len(ears)
        await other.execute("SELECT pg_terminate_backend(pid) FROM unnest($1::int[]) AS pid", listeners)
        for ear in ears:
            await ear.is_connected()
        await benches[0].store.end_session(ANN.id.encode())
        assert [await ear.next() for ear in ears] == [(ANN.id, ANN.id.encode())] * 2


async def test_what_a_stranger_announces_is_harmless(database: str) -> None:
    """What isn't in the form of an end is dropped; who has a session, and which are theirs, is the server's to check."""
    async with hearing(database) as (benches, ears, other):
        for word in ("", "x", ANN.id + "no hash", "é" * 3000):
            await other.execute("SELECT pg_notify($1, $2)", ends._CHANNEL, word)
        await benches[0].store.end_session(ANN.id.encode())
        heard = [await ears[0].next()]
        while heard[-1] != (ANN.id, ANN.id.encode()):
            heard.append(await ears[0].next())
        assert all(token_hash == b"" for _, token_hash in heard[:-1])


async def test_a_node_leaves_the_server_of_another_epoch(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection may live on, to a server that nobody has fenced."""
    monkeypatch.setattr(ends, "CHECK_SECONDS", 0.05)
    async with hearing(database) as (benches, ears, _):
        store = benches[0].store
        assert isinstance(store, PostgresStore)
        store._life.epoch = "another"
        await ears[0].is_connected()
        assert store.epoch != "another"
