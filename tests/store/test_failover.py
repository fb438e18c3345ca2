"""F20: the database is killed, another server takes over, or the data is on another one: nothing is lost, and what may be given
out again is told by the epoch."""

from __future__ import annotations

import asyncio
import random

import asyncpg
import pytest

from cluster.ports import HOST
from cluster.postgres import DATABASE, USER, Postgres
from duologue.domain.errors import Code
from duologue.domain.ports import PendingMessage
from duologue.store.postgres import PostgresStore, connection, writer
from duologue.store.postgres.store import READERS
from tests.support.proxy import Proxy

from .conftest import ANN, BOB, CAT, Bench
from .nodes import END_WRITERS, nodes, session

pytestmark = pytest.mark.asyncio


async def test_sends_outlast_a_killed_database(own_postgres: Postgres, rng: random.Random) -> None:
    """F20. PostgreSQL is killed and started again under load."""
    async with nodes(own_postgres.url, 2) as benches:

        async def send(bench: Bench, count: int) -> list[PendingMessage]:
            return [await bench.send(rng.choice((ANN, CAT)), BOB, f"{n}") for n in range(count)]

        sending = [asyncio.create_task(send(bench, 150)) for bench in benches]
        await asyncio.to_thread(own_postgres.kill)
        await asyncio.to_thread(own_postgres.start)
        sent = [message for each in await asyncio.gather(*sending) for message in each]
        assert {message.failure for message in sent} == {None}
        assert sorted(message.recipient_version for message in sent) == list(range(1, 301))
        stored = [
            message.id
            for peer in (ANN, CAT)
            for message in (await benches[0].store.history(BOB.id, peer.id, None, None, 1000)).messages
        ]
        assert sorted(stored) == sorted(message.id for message in sent)


async def test_a_failover_to_a_synchronous_standby_loses_nothing(
    own_postgres: Postgres, standby_postgres: Postgres
) -> None:
    """F20. A commit waits for the standby, so what was acknowledged is there when it takes over."""
    standby = standby_postgres
    own_postgres.set(synchronous_standby_names="*")
    url = f"postgresql://{USER}@{HOST}:{own_postgres.port},{HOST}:{standby.port}/{DATABASE}"
    async with nodes(url, 1) as (bench,):
        sent = [await bench.send(ANN, BOB, f"{n}") for n in range(20)]
        await asyncio.to_thread(own_postgres.kill)
        waiting = asyncio.create_task(bench.send(ANN, BOB, "during the failover"))
        await asyncio.to_thread(standby.promote)
        sent.append(await waiting)
        assert {message.failure for message in sent} == {None}
        page = await bench.store.history(BOB.id, ANN.id, None, None, 100)
        assert [message.id for message in page.messages] == [message.id for message in sent]


async def test_nothing_is_acknowledged_that_the_synchronous_standby_does_not_have(
    own_postgres: Postgres, standby_postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the wait for the standby is given up the message may be in the primary, and a retry finds it there."""
    own_postgres.set(synchronous_standby_names="*")
    async with nodes(own_postgres.url, 1) as (bench,):
        monkeypatch.setattr(connection, "STATEMENT_TIMEOUT", 0.5)
        monkeypatch.setattr(writer, "PATIENCE", 1.0)
        own_postgres.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'duologue'")
        standby_postgres.suspend()
        try:
            for _ in range(3):
                assert (await bench.send(ANN, BOB, "same", id="the same")).failure is Code.UNAVAILABLE
        finally:
            standby_postgres.resume()
        monkeypatch.undo()
        sent = await bench.send(ANN, BOB, "same", id="the same")
        assert (sent.failure, sent.seq) == (None, 1)


async def test_who_takes_over_begins_a_new_epoch_before_anything_comes_from_it(
    own_postgres: Postgres, standby_postgres: Postgres
) -> None:
    """The old primary may have acknowledged what the new one never had: numbers that clients know are given out again. A read
    may find it out, or a write."""
    url = f"postgresql://{USER}@{HOST}:{own_postgres.port},{HOST}:{standby_postgres.port}/{DATABASE}"
    order: list[str] = []
    benches = [Bench(url), Bench(url)]
    for number, bench in enumerate(benches):
        await bench.open(on_new_epoch=lambda number=number: order.append(f"new epoch {number}"))
    await benches[0].people(ANN, BOB)
    first, namespace = benches[0].store.epoch, benches[0].store.namespace  # type: ignore[attr-defined]
    assert benches[1].store.epoch == first
    own_postgres.sql("SELECT pg_switch_wal()")
    await asyncio.to_thread(own_postgres.kill)
    await asyncio.to_thread(standby_postgres.promote)

    async def write() -> None:
        await benches[0].send(ANN, BOB)
        order.append("written 0")

    async def read() -> None:
        await benches[1].store.people([ANN.id])
        order.append("read 1")

    await asyncio.gather(write(), read())
    assert order.index("new epoch 0") < order.index("written 0")
    assert order.index("new epoch 1") < order.index("read 1")
    assert len(order) == 4
    epochs = {bench.store.epoch for bench in benches}
    assert len(epochs) == 1
    assert epochs != {first}
    for bench in benches:
        await bench.close()
        await bench.open()
        assert {bench.store.epoch} == epochs
        assert bench.store.namespace == namespace  # type: ignore[attr-defined]
        await bench.close()


async def test_readers_leave_an_old_primary_that_still_answers(
    own_postgres: Postgres, standby_postgres: Postgres
) -> None:
    """Nobody has fenced it: its connections live on when the writer has found the new one. What is read from the old one, idle
    readers and those in the middle of a query alike, must not come with the new one's epoch."""
    async with Proxy(own_postgres.port) as proxy, session(own_postgres.url) as old:
        url = f"postgresql://{USER}@{HOST}:{proxy.port},{HOST}:{standby_postgres.port}/{DATABASE}"
        async with nodes(url, 1) as (bench,):
            store = bench.store
            assert isinstance(store, PostgresStore)
            await bench.send(ANN, BOB, "before")
            await asyncio.gather(*(store._run(_a_while, readonly=True) for _ in range(READERS)))
            begun, go_on = asyncio.Event(), asyncio.Event()

            async def count(connection: asyncpg.Connection[asyncpg.Record]) -> int:
                counted = int(await connection.fetchval("SELECT count(*) FROM duologue.message"))
                begun.set()
                await go_on.wait()
                return counted

            counting = asyncio.create_task(store._run(count, readonly=True))
            await begun.wait()
            await asyncio.to_thread(own_postgres.until_replicated)
            await asyncio.to_thread(standby_postgres.promote)
            proxy.refuse_others()
            await old.execute(END_WRITERS)
            assert (await bench.send(ANN, BOB, "to the new one")).seq == 2
            reads = [store.history(BOB.id, ANN.id, None, None, 10) for _ in range(READERS - 1)]
            for page in await asyncio.gather(*reads):
                assert [message.content for message in page.messages] == ["before", "to the new one"]
            go_on.set()
            assert await counting == 2


async def _a_while(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """As long as it takes the other readers to connect as well."""
    await connection.execute("SELECT pg_sleep(0.5)")


async def test_data_restored_on_another_server_has_another_epoch(database: str) -> None:
    bench = Bench(database)
    await bench.open()
    epoch = bench.store.epoch
    await bench.close()
    async with session(database) as other:
        await other.execute("UPDATE duologue.meta SET value = '1' WHERE name = 'server'")
    await bench.open()
    assert bench.store.epoch != epoch
    await bench.close()
