"""No read keeps others waiting, or the log from being emptied, for longer than `READ_SECONDS`."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import apsw
import pytest
import pytest_asyncio

from duologue.domain.errors import Refusal
from duologue.domain.ports import PendingMessage
from duologue.store.sqlite import readers
from duologue.store.sqlite.connection import open_reader
from duologue.store.sqlite.readers import Readers
from duologue.store.sqlite.young import Known, Young

from .conftest import ANN, BOB, TIMEOUT, Bench

pytestmark = pytest.mark.asyncio

ENDLESS = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM person, n WHERE is_wanted(i)"


class Endless:
    """A read that ends only if it's interrupted, in each form that a read has. It fails if nobody does that in `TIMEOUT`."""

    def __init__(self) -> None:
        self._begun = threading.Event()
        self._until = time.monotonic() + TIMEOUT

    def alone(self, connection: apsw.Connection) -> object:
        connection.create_scalar_function("is_wanted", self._is_wanted, 1)
        return connection.execute(ENDLESS).fetchall()

    def _is_wanted(self, *_: object) -> bool:
        self._begun.set()
        assert time.monotonic() < self._until, "nobody interrupted it"
        return False

    def of_several(self, connection: apsw.Connection, _: Mapping[str, Mapping[str, Known]]) -> object:
        return self.alone(connection)

    async def begun(self) -> None:
        """Its snapshot is taken."""
        await asyncio.to_thread(self._begun.wait, TIMEOUT)


def _people(connection: apsw.Connection) -> object:
    return connection.execute("SELECT count(*) FROM person").get


def _alone(pool: Readers, endless: Endless) -> Awaitable[object]:
    return pool.run(endless.alone)


def _of_several(pool: Readers, endless: Endless) -> Awaitable[object]:
    return pool.run_for([ANN.id], endless.of_several)


FORMS = pytest.mark.parametrize("read", [_alone, _of_several])


@pytest_asyncio.fixture
async def pool(ready: Bench) -> AsyncIterator[Readers]:
    """With one connection, so that nobody else does the next read."""
    made = Readers([open_reader(ready.folder / "messages.db", 1)], Young(), ready.clock, ready.failures.append)
    yield made
    await made.close()


@FORMS
async def test_a_read_that_takes_too_long_is_refused_and_the_next_one_served(
    ready: Bench, pool: Readers, read: Callable[[Readers, Endless], Awaitable[object]]
) -> None:
    endless = Endless()
    reading = asyncio.ensure_future(read(pool, endless))
    await endless.begun()
    ready.clock.ahead += readers.READ_SECONDS
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(Refusal, match="took too long"):
            await reading
        assert await pool.run(_people) == len((ANN, BOB)) + 1
    assert not ready.failures


@FORMS
async def test_no_read_keeps_its_snapshot(
    ready: Bench, pool: Readers, read: Callable[[Readers, Endless], Awaitable[object]]
) -> None:
    """Neither after an answer nor after an interruption: the whole log can be emptied."""
    await pool.run(_people)
    await pool.run_for([ANN.id], lambda connection, _: _people(connection))
    await ready.commit(PendingMessage(ANN.id, BOB.id, "n", "written after it", None))
    assert _left_in_the_log(ready) == 0
    endless = Endless()
    reading = asyncio.ensure_future(read(pool, endless))
    await endless.begun()
    await ready.commit(PendingMessage(ANN.id, BOB.id, "m", "written while somebody reads", None))
    ready.clock.ahead += readers.READ_SECONDS
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(Refusal):
            await reading
    assert _left_in_the_log(ready) == 0


async def test_a_read_of_several_statements_sees_one_snapshot(ready: Bench, pool: Readers) -> None:
    between, go_on = threading.Event(), threading.Event()

    def twice(connection: apsw.Connection, _: Mapping[str, Mapping[str, Known]]) -> tuple[object, object]:
        first = _guests(connection)
        between.set()
        go_on.wait(TIMEOUT)
        return first, _guests(connection)

    reading = asyncio.ensure_future(pool.run_for([ANN.id], twice))
    await asyncio.to_thread(between.wait, TIMEOUT)
    await ready.store.end_session(ANN.id.encode())
    go_on.set()
    async with asyncio.timeout(TIMEOUT):
        first, second = await reading
        assert first == second
        assert await pool.run(_guests) == first - 1  # type: ignore[operator]


def _guests(connection: apsw.Connection) -> Any:
    return connection.execute("SELECT count(*) FROM session").get


def _left_in_the_log(bench: Bench) -> int:
    """Pages that couldn't be moved because somebody reads what was before them."""
    other = apsw.Connection(str(bench.folder / "messages.db"))
    try:
        in_log, moved = other.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        return in_log - moved
    finally:
        other.close()
