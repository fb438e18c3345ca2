"""What only several nodes on one database can get wrong: late commits, crossing batches, lost connections, failover."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import pytest

from cluster.postgres import DATABASE, HOST, USER, Postgres
from duologue.domain.errors import Code, Refusal, StoreUnusable
from duologue.domain.model import User
from duologue.domain.ports import Pending, PendingMessage, PendingReceipt
from duologue.store.postgres import PostgresStore, connection, schema, writer
from duologue.store.postgres.connection import STATEMENT_TIMEOUT, connect
from duologue.store.postgres.store import READERS
from tests.support.proxy import Proxy

from .conftest import ANN, BOB, CAT, Bench

pytestmark = pytest.mark.asyncio

PATIENCE = 20.0

# A message of this text stays in its transaction, locks and all, until the test lets go of the advisory lock.
HELD = "held"
_HOLD = """
    CREATE FUNCTION duologue.hold() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN NULL; END
    $$;
    CREATE CONSTRAINT TRIGGER hold AFTER INSERT ON duologue.message DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW WHEN (NEW.content = 'held') EXECUTE FUNCTION duologue.hold();
"""


# A writing connection is known by the lock with which it keeps migrations out.
_END_WRITERS = """
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


async def _until_waiting_for_a_lock(connection: asyncpg.Connection[asyncpg.Record], count: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while count > await connection.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        ):
            await asyncio.sleep(0.01)


async def test_sync_skips_nothing_that_commits_late(database: str) -> None:
    """F21. The node that took the earlier version commits last: whoever comes later has to wait for it."""
    async with nodes(database, 2) as (one, other), session(database) as watcher:
        await watcher.execute(_HOLD)
        await one.send(ANN, BOB, "first")
        await watcher.execute("SELECT pg_advisory_lock(42)")
        late = asyncio.create_task(one.send(ANN, BOB, HELD))
        await _until_waiting_for_a_lock(watcher, 1)
        later = asyncio.create_task(other.send(CAT, BOB, "later"))
        await _until_waiting_for_a_lock(watcher, 2)
        page = await other.store.sync(BOB.id, 1, None, 50, 50, 500)
        assert (page.version, page.conversations) == (1, ())
        await watcher.execute("SELECT pg_advisory_unlock(42)")
        sent = [await late, await later]
        assert [each.recipient_version for each in sent] == [2, 3]
        page = await other.store.sync(BOB.id, 1, None, 50, 50, 500)
        assert page.version == 3
        assert [[m.content for m in each.messages] for each in page.conversations] == [["later"], [HELD]]


async def test_crossing_batches_of_three_nodes(database: str, rng: random.Random) -> None:
    """F22. Everybody writes to everybody on every node, the same ids now and then; nobody deadlocks and no number is
    given out twice or left out."""
    users = [User(f"{rng.randrange(16**16):016x}", f"user {n}") for n in range(8)]
    async with nodes(database, 3, users) as benches, session(database) as watcher:
        plans = []
        for bench in benches:
            plan = []
            for number in range(300):
                a, b = rng.choice(users), rng.choice(users)
                plan.append(PendingMessage(a.id, b.id, f"m{rng.randrange(2000)}", "x", number))
            plans.append((bench, plan))

        async def send(bench: Bench, plan: list[PendingMessage]) -> None:
            for start in range(0, len(plan), 20):
                await bench.commit(*plan[start : start + 20])

        await asyncio.gather(*(send(*each) for each in plans))
        sent = [message for _, plan in plans for message in plan]
        assert {message.failure for message in sent} == {None}
        stored = {(message.sender, message.recipient, message.id): message for message in sent}
        assert len(stored) == sum(not message.duplicate for message in sent)
        versions: dict[str, list[int]] = {user.id: [] for user in users}
        seqs: dict[tuple[str, str], list[int]] = {}
        for message in sent:
            if message.duplicate:
                continue
            pair = (min(message.sender, message.recipient), max(message.sender, message.recipient))
            seqs.setdefault(pair, []).append(message.seq)
            versions[message.sender].append(message.sender_version)
            if message.sender != message.recipient:
                versions[message.recipient].append(message.recipient_version)
        for numbers in [*versions.values(), *seqs.values()]:
            assert sorted(numbers) == list(range(1, len(numbers) + 1))
        deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        assert await watcher.fetchval(deadlocks) == 0


async def test_a_commit_whose_answer_is_lost_is_found_and_not_repeated(database: str, postgres: Postgres) -> None:
    """The sockets of both sides hear of it all the same, for nobody has delivered it yet."""
    async with (
        Proxy(postgres.port) as proxy,
        nodes(database.replace(str(postgres.port), str(proxy.port)), 1) as (bench,),
    ):
        proxy.to_client.cut_before = b"COMMIT"
        sent = await bench.send(ANN, BOB, "once")
        assert (sent.failure, sent.duplicate, sent.seq, sent.recipient_name) == (None, False, 1, "Bob")
        assert (await bench.send(ANN, BOB, "next")).seq == 2
        proxy.to_client.cut_before = b"COMMIT"
        new = User("e" * 16, "Eve")
        await bench.store.create_guest(new, b"hash of hers")
        assert await bench.store.session_user(b"hash of hers") == new


async def test_a_commit_that_never_arrived_is_made_again(database: str, postgres: Postgres) -> None:
    async with (
        Proxy(postgres.port) as proxy,
        nodes(database.replace(str(postgres.port), str(proxy.port)), 1) as (bench,),
    ):
        proxy.to_server.cut_before = b"COMMIT"
        mark = asyncio.create_task(bench.mark(BOB, ANN, read=1))
        sent = await bench.send(ANN, BOB, "once")
        assert (sent.failure, sent.duplicate, sent.seq) == (None, False, 1)
        assert (await mark).failure is None
        page = await bench.store.history(BOB.id, ANN.id, None, None, 10)
        assert [message.content for message in page.messages] == ["once"]


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
            await old.execute(_END_WRITERS)
            assert (await bench.send(ANN, BOB, "to the new one")).seq == 2
            reads = [store.history(BOB.id, ANN.id, None, None, 10) for _ in range(READERS - 1)]
            for page in await asyncio.gather(*reads):
                assert [message.content for message in page.messages] == ["before", "to the new one"]
            go_on.set()
            assert await counting == 2


async def _a_while(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """As long as it takes the other readers to connect as well."""
    await connection.execute("SELECT pg_sleep(0.5)")


async def test_a_node_that_stands_still_in_a_transaction_holds_nobody_up_for_long(database: str) -> None:
    """A node that was stopped with SIGSTOP, or cut off, holds its locks; the database ends its transaction."""
    async with nodes(database, 1) as (bench,), session(database) as stopped:
        await stopped.execute("BEGIN")
        await stopped.execute("SELECT FROM duologue.person WHERE name = 'Bob' FOR NO KEY UPDATE")
        assert (await bench.send(ANN, BOB)).failure is None


async def test_a_database_that_cannot_be_used_is_named_in_one_line(database: str, postgres: Postgres) -> None:
    nobody = f"postgresql://me:secret@{HOST}:1/x"
    with pytest.raises(StoreUnusable, match="can't be used") as refused:
        await Bench(nobody).open()
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)
    with pytest.raises(StoreUnusable, match="does not exist"):
        await Bench(database + "x").open()
    bench = Bench(database)
    await bench.open()
    await bench.close()
    async with session(database) as other:
        await other.execute("UPDATE duologue.meta SET value = '99' WHERE name = 'oldest_reader'")
    with pytest.raises(StoreUnusable, match="newer Duologue"):
        await bench.open()


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


async def test_nodes_that_start_at_the_same_time_make_one_schema(postgres: Postgres) -> None:
    for _ in range(4):
        with postgres.database() as url:
            benches = [Bench(url) for _ in range(6)]
            await asyncio.gather(*(bench.open() for bench in benches))
            assert len({bench.store.epoch for bench in benches}) == 1
            for bench in benches:
                await bench.close()


async def test_nodes_of_two_adjacent_schema_versions_run_side_by_side(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rolling upgrade: the first new node changes the schema while old ones go on, and can even be started again."""
    async with nodes(database, 1) as (old,):
        await old.send(ANN, BOB, "before")
        new = Bench(database)
        with monkeypatch.context() as next_version:
            number = schema.VERSION + 1
            added = "ALTER TABLE duologue.message ADD COLUMN edited bigint; CREATE INDEX ON duologue.message (edited)"
            files = [*schema._files(), (number, added)]
            next_version.setattr(schema, "_files", lambda: files)
            next_version.setattr(schema, "VERSION", number)
            next_version.setitem(schema.OLDEST_READERS, number, schema.VERSION - 1)
            await new.open()
        sent = [await each.send(ANN, BOB, "side by side") for each in (old, new, old, new)]
        assert [message.seq for message in sent] == [2, 3, 4, 5]
        await old.close()
        await old.open()
        assert (await old.send(BOB, ANN, "started again")).seq == 6
        page = await old.store.sync(BOB.id, 0, None, 50, 50, 500)
        assert [message.seq for message in page.conversations[0].messages] == [1, 2, 3, 4, 5, 6]
        await new.close()


async def test_a_node_for_which_the_data_has_become_too_new_writes_no_more(
    database: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While it was away from the database nothing told the newer nodes that it was there."""
    monkeypatch.setattr(writer, "PATIENCE", 0.5)
    async with nodes(database, 1) as (old,), session(database) as other:
        await other.execute("UPDATE duologue.meta SET value = '99' WHERE name = 'oldest_reader'")
        await other.execute(_END_WRITERS)
        assert (await old.send(ANN, BOB)).failure is Code.UNAVAILABLE
        assert "install the release that the other nodes run" in caplog.text
        await other.execute("UPDATE duologue.meta SET value = '1' WHERE name = 'oldest_reader'")
        assert (await old.send(ANN, BOB)).failure is None


async def test_a_change_of_the_schema_waits_for_no_long_transaction(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else every statement after it would wait behind it: it gives up, and so does the start."""
    async with nodes(database, 1) as (old,), session(database) as reader:
        await reader.execute("SET idle_in_transaction_session_timeout = 0")
        await reader.execute("BEGIN")
        await reader.execute("SELECT count(*) FROM duologue.message")
        new = Bench(database)
        with monkeypatch.context() as next_version:
            number = schema.VERSION + 1
            files = [*schema._files(), (number, "ALTER TABLE duologue.message ADD COLUMN edited bigint")]
            next_version.setattr(schema, "_files", lambda: files)
            next_version.setattr(schema, "VERSION", number)
            next_version.setitem(schema.OLDEST_READERS, number, schema.VERSION - 1)
            with pytest.raises(StoreUnusable, match="lock timeout"):
                await new.open()
            await reader.execute("COMMIT")
            await new.open()
            await new.close()
        assert (await old.send(ANN, BOB)).failure is None


async def test_a_batch_does_not_wait_long_for_a_lock_that_nobody_lets_go(database: str) -> None:
    """A session that isn't ours may hold it for ever. Every batch of the node waits behind this one."""
    async with nodes(database, 1) as (bench,), session(database) as other:
        await other.execute("SET idle_in_transaction_session_timeout = 0")
        await other.execute("BEGIN")
        await other.execute("SELECT FROM duologue.person WHERE name = 'Bob' FOR NO KEY UPDATE")
        async with asyncio.timeout(STATEMENT_TIMEOUT + PATIENCE):
            assert (await bench.send(ANN, BOB)).failure is Code.UNAVAILABLE
        assert (await bench.send(ANN, CAT)).failure is None


async def test_a_connection_that_stands_still_holds_a_batch_up_for_one_statement(
    database: str, postgres: Postgres
) -> None:
    async with (
        Proxy(postgres.port) as proxy,
        nodes(database.replace(str(postgres.port), str(proxy.port)), 1) as (bench,),
    ):
        await bench.send(ANN, BOB, "before")
        proxy.to_client.hold_before = b"SELECT"
        start = time.monotonic()
        assert (await bench.send(ANN, BOB, "after")).failure is Code.UNAVAILABLE
        assert time.monotonic() - start < STATEMENT_TIMEOUT + 3
        proxy.heal()
        assert (await bench.send(ANN, BOB, "again")).failure is None


async def test_connections_that_lead_nowhere_cost_one_read(database: str) -> None:
    """A server that vanished without a word, another one in its place: the idle connections look as if they lived."""

    async def pid(connection: asyncpg.Connection[asyncpg.Record]) -> int:
        return int(await connection.fetchval("SELECT pg_backend_pid() FROM pg_sleep(0.5)"))

    async with nodes(database, 1) as (bench,):
        store = bench.store
        assert isinstance(store, PostgresStore)
        backends = await asyncio.gather(*(store._run(pid, readonly=True) for _ in range(READERS)))
        assert len(set(backends)) == READERS
        for backend in backends:
            os.kill(backend, signal.SIGSTOP)
        try:
            with pytest.raises(Refusal, match="too long"):
                await store.people([ANN.id])
            async with asyncio.timeout(STATEMENT_TIMEOUT / 2):
                assert await store.people([ANN.id])
        finally:
            for backend in backends:
                os.kill(backend, signal.SIGCONT)


CROWD = [User(f"{number:016x}", f"user {number}") for number in range(200)]
"""So many that their notes to themselves fill more than a page of `dialog`, between Ann's first words and Cat's."""


async def test_a_damaged_page_costs_only_those_whose_it_is(
    own_postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    """Others' reads go on, and others' messages that are in one batch with those that meet the page. Nothing is fatal: the
    next node would meet it as well, as soon as the same people came to it."""
    async with nodes(own_postgres.url, 1, (ANN, BOB, CAT, *CROWD)) as (bench,):
        await bench.send(ANN, BOB, "on the page")
        for half in (CROWD[:100], CROWD[100:]):  # the rows of one batch have no order, those of two have
            await bench.commit(*(PendingMessage(each.id, each.id, "note", "x", None) for each in half))
        await bench.send(CAT, CAT, "elsewhere")
        own_postgres.set(enable_seqscan="off")  # the whole of a table so small would be read for one row
        await asyncio.to_thread(own_postgres.damage, "duologue.dialog")
        caplog.clear()
        for read in (bench.store.peers(ANN.id, 10), bench.store.history(ANN.id, BOB.id, None, None, 10)):
            with pytest.raises(Refusal) as refused:
                await read
            assert refused.value.code is Code.UNAVAILABLE
        assert [record.levelname for record in caplog.records if "damaged" in record.message] == ["ERROR"] * 2
        caplog.clear()
        batch = [PendingMessage(each.id, each.id, "again", "x", None) for each in (CAT, CROWD[-1], CROWD[-2])]
        lost: list[Pending] = [
            PendingMessage(ANN.id, BOB.id, "m", "x", None),
            PendingReceipt(BOB.id, ANN.id, 1, 1, None),
        ]
        await bench.commit(*batch[:2], *lost, batch[2])
        assert [each.failure for each in lost] == [Code.UNAVAILABLE] * 2
        assert [(each.failure, each.seq) for each in batch] == [(None, 2)] * 3
        assert [record.levelname for record in caplog.records if "damaged" in record.message] == ["ERROR"] * 2
        page = await bench.store.history(CAT.id, CAT.id, None, None, 10)
        assert [message.seq for message in page.messages] == [1, 2]
        assert not bench.failures


async def test_a_batch_is_not_split_for_ever(
    own_postgres: Postgres, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Everybody's page: a big batch is refused in the time that any other one has."""
    async with nodes(own_postgres.url, 1) as (bench,):
        await bench.send(ANN, BOB)
        await asyncio.to_thread(own_postgres.damage, "duologue.person")
        assert (await bench.send(ANN, BOB)).failure is Code.UNAVAILABLE
        monkeypatch.setattr(writer, "PATIENCE", 0.0)
        caplog.clear()
        batch = [PendingMessage(ANN.id, BOB.id, f"m{number}", "x", None) for number in range(1000)]
        await bench.commit(*batch)
        assert {each.failure for each in batch} == {Code.UNAVAILABLE}
        assert len([record for record in caplog.records if "damaged" in record.message]) == 1
        assert not bench.failures
