"""`duologue migrate`, both ways: everything arrives, whatever interrupts it, and a wrong copy is found."""

from __future__ import annotations

import asyncio
import random
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cluster.postgres import Postgres
from duologue import cli
from duologue.domain.errors import StoreUnusable
from duologue.domain.model import SyncPage, User
from duologue.domain.ports import PendingMessage, PendingReceipt
from duologue.store.migrate import copying
from duologue.store.migrate import postgres as postgres_side
from duologue.store.migrate.postgres import PostgresSide
from duologue.store.migrate.rows import Progress
from duologue.store.migrate.sqlite import SqliteSide
from tests.support.proxy import Proxy

from .conftest import Bench

PEOPLE = 12
MESSAGES = 400

Everything = dict[str, tuple[SyncPage, SyncPage | None]]


async def fill(place: Path | str, rng: random.Random) -> list[User]:
    """A history by way of the real store."""
    bench = Bench(place)
    await bench.open()
    users = [User(f"{rng.randrange(16**16):016x}", f"user {n} é") for n in range(PEOPLE)]
    await bench.people(*users)
    for start in range(0, MESSAGES, 50):
        batch: list[Any] = []
        for number in range(start, start + 50):
            a, b = rng.choice(users), rng.choice(users)
            batch.append(PendingMessage(a.id, b.id, f"m{number}", f"text {number} 👩‍👩‍👧 \r\n", None))
            batch.append(PendingReceipt(b.id, a.id, rng.randrange(4), rng.randrange(4), None))
        await bench.commit(*batch)
    await bench.store.seen([users[0].id], 1234)
    await bench.close()
    return users


async def everything(place: Path | str, users: list[User]) -> tuple[str, Everything, list[Any]]:
    """What people would see: the epoch, each one's sync from the start and from the middle, the directory."""
    bench = Bench(place)
    await bench.open()
    seen: Everything = {}
    for user in users:
        whole = await bench.store.sync(user.id, None, None, 50, 1000, 10_000)
        seen[user.id] = whole, await bench.store.sync(user.id, whole.version // 2, None, 50, 1000, 10_000)
        assert await bench.store.session_user(user.id.encode()) == user
    people = await bench.store.directory("", 100)
    epoch = bench.store.epoch
    await bench.close()
    return epoch, seen, sorted(people.people, key=lambda person: person.user.id)


def command(*arguments: str) -> int:
    return cli.main(["migrate", *arguments])


def test_there_and_back_is_the_same(database: str, postgres: Postgres, tmp_path: Path, rng: random.Random) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    users = asyncio.run(fill(first, rng))
    before = asyncio.run(everything(first, users))
    assert command(str(first), database) == 0
    assert asyncio.run(everything(database, users)) == before
    assert command(database, str(second)) == 0
    assert asyncio.run(everything(second, users)) == before
    # The source was only read.
    assert asyncio.run(everything(first, users)) == before


async def _interrupted(open_both: Callable[[], Any], at: int) -> bool:
    """Stop after so many batches. True if it was done before that."""
    source, target = await open_both()
    batches = 0

    class Interrupted(Exception):
        pass

    def report(doing: str, table: str, done: int, total: int) -> None:
        nonlocal batches
        batches += 1
        if batches > at:
            raise Interrupted

    try:
        await copying.migrate(source, target, report)
    except Interrupted:
        return False
    finally:
        await target.close()
        await source.close()
    return True


@pytest.mark.parametrize("to", ["postgres", "sqlite"])
def test_an_interrupted_one_goes_on(
    to: str, database: str, tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "BATCH", 40)
    folder = tmp_path / "data"
    source, target = (folder, database) if to == "postgres" else (database, folder)
    users = asyncio.run(fill(source, rng))
    before = asyncio.run(everything(source, users))

    async def open_both() -> tuple[Any, Any]:
        if to == "postgres":
            return SqliteSide.source(folder), await PostgresSide.target(database, "the database")
        return await PostgresSide.source(database, "the database"), SqliteSide.target(folder)

    attempts = 0
    while not asyncio.run(_interrupted(open_both, rng.randrange(2, 9) if attempts < 8 else 10_000)):
        attempts += 1
        # Until it's done nobody serves the half of it.
        with pytest.raises(StoreUnusable, match="isn't finished"):
            asyncio.run(Bench(target).open())
        assert attempts < 20
    assert attempts > 5
    assert asyncio.run(everything(target, users)) == before


def test_a_copy_that_differs_is_found(
    database: str,
    tmp_path: Path,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "data"
    asyncio.run(fill(folder, rng))
    written = PostgresSide.write

    async def harmed(self: PostgresSide, table: str, rows: Any, progress: Any) -> None:
        await written(self, table, rows, progress)
        if table == "message":
            await self._connection.execute("UPDATE duologue.message SET content = content || '!' WHERE id = 'm7'")

    monkeypatch.setattr(PostgresSide, "write", harmed)
    assert command(str(folder), database) == 1
    assert "message: 400 rows" in capsys.readouterr().err
    with pytest.raises(StoreUnusable, match="isn't finished"):
        asyncio.run(Bench(database).open())


def test_what_is_refused_is_left_as_it_is(
    database: str, postgres: Postgres, tmp_path: Path, rng: random.Random, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, other = tmp_path / "data", tmp_path / "other"
    asyncio.run(fill(folder, rng))

    def refused(*arguments: str) -> str:
        assert command(*arguments) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        return lines[0]

    assert "one of the two" in refused(str(folder), str(other))
    assert "there is no data folder" in refused(str(other), database)
    assert not other.exists()
    assert "there is no Duologue in" in refused(database, str(other))
    assert "secret" not in refused(str(folder), "postgresql://me:secret@127.0.0.1:1/x")

    # `refused` starts a loop of its own, so it can't run in this one's thread.
    async def in_threads() -> None:
        bench = Bench(folder)
        await bench.open()
        said = await asyncio.to_thread(refused, str(folder), database)
        assert "is in use by process" in said
        await bench.close()
        on_postgres = Bench(database)
        await on_postgres.open()
        said = await asyncio.to_thread(refused, str(folder), database)
        assert "the database is in use" in said
        await on_postgres.close()

    asyncio.run(in_threads())
    with postgres.database() as full:
        asyncio.run(fill(full, rng))
        assert "isn't empty" in refused(str(folder), full)
        shutil.copytree(folder, other)
        assert "isn't empty" in refused(full, str(other))


def test_the_beginning_of_another_migration_is_not_gone_on_with(
    database: str,
    tmp_path: Path,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(copying, "BATCH", 40)
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        asyncio.run(fill(folder, rng))

    async def open_both() -> tuple[Any, Any]:
        return SqliteSide.source(one), await PostgresSide.target(database, "the database")

    assert not asyncio.run(_interrupted(open_both, 4))
    assert command(str(other), database) == 2
    assert "from elsewhere" in capsys.readouterr().err


def test_a_session_goes_on_where_it_was(database: str, tmp_path: Path) -> None:
    """Tokens and cursors of the time before are those of the time after."""
    folder = tmp_path / "data"
    token, user = secrets.token_bytes(32), User("a" * 16, "Ann")

    async def before() -> str:
        bench = Bench(folder)
        await bench.open()
        await bench.store.create_guest(user, token)
        await bench.send(user, user, "note")
        await bench.close()
        return bench.store.epoch

    async def after() -> str:
        bench = Bench(database)
        await bench.open()
        assert await bench.store.session_user(token) == user
        assert (await bench.store.sync(user.id, 1, None, 50, 50, 500)).known
        sent = await bench.send(user, user, "next")
        assert (sent.seq, sent.sender_version) == (2, 2)
        await bench.close()
        return bench.store.epoch

    epoch = asyncio.run(before())
    assert command(str(folder), database) == 0
    assert asyncio.run(after()) == epoch


@pytest.mark.asyncio
async def test_rows_that_the_database_does_not_take_end_the_migration_in_time(
    database: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More of them than fit on their way: the driver waits for room, without a time-out of its own."""
    monkeypatch.setattr(postgres_side, "COPY_TIMEOUT", 1.0)
    async with Proxy(postgres.port) as proxy:
        side = await PostgresSide.target(database.replace(str(postgres.port), str(proxy.port)), "the database")

        def stop(data: bytes) -> bytes:
            proxy.to_server.hold |= b"COPY" in data
            return data

        proxy.to_server.garble = stop
        rows = [(f"{number:016x}", "x" * 32, None, 0) for number in range(200_000)]
        async with asyncio.timeout(30):
            with pytest.raises(TimeoutError):
                await side.write("person", rows, Progress("x", "person", None))
            await side.close()
