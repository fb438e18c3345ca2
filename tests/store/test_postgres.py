"""What only several nodes on one database can get wrong: late commits, crossing batches, lost connections, damaged pages."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time

import asyncpg
import pytest

from cluster.postgres import Postgres
from duologue.domain.errors import Code, Refusal
from duologue.domain.model import User
from duologue.domain.ports import Pending, PendingMessage, PendingReceipt
from duologue.store.postgres import PostgresStore, writer
from duologue.store.postgres.connection import SILENCE_TIMEOUT, STATEMENT_TIMEOUT, connect
from duologue.store.postgres.store import READERS
from tests.support.proxy import Proxy

from .conftest import ANN, BOB, CAT, Bench
from .nodes import nodes, session, until_waiting_for_a_lock

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


async def test_sync_skips_nothing_that_commits_late(database: str) -> None:
    """F21. The node that took the earlier version commits last: whoever comes later has to wait for it."""
    async with nodes(database, 2) as (one, other), session(database) as watcher:
        await watcher.execute(_HOLD)
        await one.send(ANN, BOB, "first")
        await watcher.execute("SELECT pg_advisory_lock(42)")
        late = asyncio.create_task(one.send(ANN, BOB, HELD))
        await until_waiting_for_a_lock(watcher, 1)
        later = asyncio.create_task(other.send(CAT, BOB, "later"))
        await until_waiting_for_a_lock(watcher, 2)
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


async def test_another_isolation_by_default_is_not_ours(database: str) -> None:
    """Whoever has waited for a lock would be refused what its holder has written, with an error instead."""
    async with session(database) as before:
        name = await before.fetchval("SELECT quote_ident(current_database())")
        await before.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    async with session(database) as after:
        assert await after.fetchval("SHOW transaction_isolation") == "read committed"


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


async def test_a_node_that_stands_still_in_a_transaction_holds_nobody_up_for_long(database: str) -> None:
    """A node that was stopped with SIGSTOP, or cut off, holds its locks; the database ends its transaction."""
    async with nodes(database, 1) as (bench,), session(database) as stopped:
        await stopped.execute("BEGIN")
        await stopped.execute("SELECT FROM duologue.person WHERE name = 'Bob' FOR NO KEY UPDATE")
        assert (await bench.send(ANN, BOB)).failure is None


async def test_a_node_that_is_cut_off_between_two_statements_holds_nobody_up_for_long(
    database: str, postgres: Postgres
) -> None:
    """F19. It has its locks, has asked the next thing, and hears nothing any more; what lies between goes on acknowledging."""
    async with (
        Proxy(postgres.port) as proxy,
        nodes(database, 1) as (bench,),
        nodes(database.replace(str(postgres.port), str(proxy.port)), 1) as (cut_off,),
    ):
        locked = False

        def hear(data: bytes) -> bytes:
            nonlocal locked
            locked |= b"Bob" in data
            return data

        def ask(data: bytes) -> bytes:
            proxy.to_client.swallow |= locked
            return data

        proxy.to_client.garble, proxy.to_server.garble = hear, ask
        late = asyncio.create_task(cut_off.send(ANN, BOB, "late"))
        async with asyncio.timeout(PATIENCE):
            while not proxy.to_client.swallow:
                await asyncio.sleep(0.01)
        assert (await bench.send(ANN, BOB, "meanwhile")).failure is None
        proxy.heal()
        await proxy.cut()
        assert ((await late).failure, late.result().seq) == (None, 2)


async def test_tcp_gives_up_a_node_of_which_nothing_comes(database: str) -> None:
    """By what the server's sockets have: with nothing on its way by probes, and with an answer on its way."""
    connection = await connect(database)
    names = ("tcp_keepalives_idle", "tcp_keepalives_interval", "tcp_keepalives_count", "tcp_user_timeout")
    idle, interval, count, answer = [
        int(await connection.fetchval(f"SELECT current_setting('{name}')")) for name in names
    ]
    assert idle + interval * count == answer / 1000 == SILENCE_TIMEOUT
    await connection.close()


async def test_a_batch_does_not_wait_long_for_a_lock_that_nobody_lets_go(database: str) -> None:
    """A session that isn't ours may hold it for ever. Every batch of the node waits behind this one."""
    async with nodes(database, 1) as (bench,), session(database) as other:
        await other.execute("SET idle_in_transaction_session_timeout = 0")
        await other.execute("BEGIN")
        await other.execute("SELECT FROM duologue.person WHERE name = 'Bob' FOR NO KEY UPDATE")
        async with asyncio.timeout(STATEMENT_TIMEOUT + PATIENCE):
            assert (await bench.send(ANN, BOB)).failure is Code.UNAVAILABLE
        assert (await bench.send(ANN, CAT)).failure is None


async def test_a_node_goes_on_when_a_column_becomes_another_type(database: str) -> None:
    """What is prepared on the writer's connection was for the table as it was."""
    async with nodes(database, 1) as (bench,), session(database) as other:
        await bench.send(ANN, BOB)
        await other.execute("ALTER TABLE duologue.person ALTER COLUMN name TYPE varchar")
        assert (await bench.send(ANN, BOB)).failure is None


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
        for read in (bench.store.peers([ANN.id], 10), bench.store.history(ANN.id, BOB.id, None, None, 10)):
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
