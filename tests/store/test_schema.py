"""The schema of a database that several nodes start on, of one version or of two, and databases that are refused."""

from __future__ import annotations

import asyncio

import pytest

from cluster.ports import HOST
from cluster.postgres import Postgres
from duologue.domain.errors import Code, StoreUnusable
from duologue.store.postgres import schema, writer
from duologue.store.postgres.connection import LOST, connect

from .conftest import ANN, BOB, Bench
from .nodes import END_WRITERS, nodes, session

pytestmark = pytest.mark.asyncio


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
        await other.execute(END_WRITERS)
        assert (await old.send(ANN, BOB)).failure is Code.UNAVAILABLE
        assert "install the release that the other nodes run" in caplog.text
        await other.execute("UPDATE duologue.meta SET value = '1' WHERE name = 'oldest_reader'")
        assert (await old.send(ANN, BOB)).failure is None


async def test_a_node_that_stands_still_while_it_changes_the_schema_keeps_nobody_from_starting(database: str) -> None:
    stopped = await connect(database)
    with pytest.raises(LOST):
        async with schema._alone(stopped), nodes(database, 1) as (bench,):
            assert (await bench.send(ANN, BOB)).failure is None


async def test_a_change_of_the_schema_that_fails_changes_nothing(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with nodes(database, 1) as (old,), session(database) as other:
        new = Bench(database)
        with monkeypatch.context() as next_version:
            number = schema.VERSION + 1
            files = [*schema._files(), (number, "CREATE TABLE duologue.half (whole int); SELECT 1 / 0")]
            next_version.setattr(schema, "_files", lambda: files)
            next_version.setattr(schema, "VERSION", number)
            next_version.setitem(schema.OLDEST_READERS, number, schema.VERSION - 1)
            with pytest.raises(StoreUnusable, match="division by zero"):
                await new.open()
        assert await other.fetchval("SELECT to_regclass('duologue.half')") is None
        assert await schema.read(other, "schema_version") == str(schema.VERSION)
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
