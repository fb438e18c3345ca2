"""No read keeps others waiting, or the log from being emptied, for longer than it may; those that wait together are read
together, and each has its own answer."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import apsw
import pytest
import pytest_asyncio

from duologue.domain.errors import Code, Refusal, StoreFailed
from duologue.domain.ports import PendingMessage
from duologue.store.sqlite import reader, readers
from duologue.store.sqlite.connection import open_reader
from duologue.store.sqlite.readers import Readers
from duologue.store.sqlite.young import KnownByUser, Young

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

    def of_several(self, connection: apsw.Connection, _: KnownByUser) -> object:
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


class Pool(Readers):
    """With one connection, so that nobody else does the next read, and a note of each statement that it makes."""

    def __init__(self, bench: Bench) -> None:
        self.statements: list[str] = []
        connection = open_reader(bench.folder / "messages.db", 1)
        connection.exec_trace = lambda _, statement, __: self.statements.append(statement) is None
        super().__init__([connection], Young(), bench.clock, bench.failures.append)

    @property
    def transactions(self) -> int:
        return self.statements.count("BEGIN")


class Busy:
    """A read that keeps the pool's one connection until it's told to end."""

    def __init__(self, pool: Pool) -> None:
        self._begun, self._go_on = threading.Event(), threading.Event()
        self._reading = asyncio.ensure_future(pool.run(self._wait))

    @classmethod
    async def begun(cls, pool: Pool) -> Busy:
        busy = cls(pool)
        await asyncio.to_thread(busy._begun.wait, TIMEOUT)
        return busy

    async def end(self) -> None:
        self._go_on.set()
        await self._reading

    def _wait(self, _: apsw.Connection) -> None:
        self._begun.set()
        assert self._go_on.wait(TIMEOUT)


@pytest_asyncio.fixture
async def pool(ready: Bench) -> AsyncIterator[Pool]:
    made = Pool(ready)
    yield made
    await made.close()


def _ask(pool: Pool, query: Callable[..., Any], *users: str) -> asyncio.Future[Any]:
    """A read of several statements."""
    return asyncio.ensure_future(pool.run_for(users or (ANN.id,), query))


async def _all_in_line() -> None:
    """Tasks begin in the order in which they were made: the last one asks once this one goes on."""
    await asyncio.sleep(0)


@FORMS
async def test_a_read_that_takes_too_long_is_refused_and_the_next_one_served(
    ready: Bench, pool: Pool, read: Callable[[Readers, Endless], Awaitable[object]]
) -> None:
    endless = Endless()
    reading = asyncio.ensure_future(read(pool, endless))
    await endless.begun()
    ready.clock.ahead += reader.READ_SECONDS
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(Refusal, match="took too long"):
            await reading
        assert await pool.run(_people) == len((ANN, BOB)) + 1
    assert not ready.failures


@FORMS
async def test_no_read_keeps_its_snapshot(
    ready: Bench, pool: Pool, read: Callable[[Readers, Endless], Awaitable[object]]
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
    ready.clock.ahead += reader.READ_SECONDS
    async with asyncio.timeout(TIMEOUT):
        with pytest.raises(Refusal):
            await reading
    assert _left_in_the_log(ready) == 0


async def test_a_read_of_several_statements_sees_one_snapshot(ready: Bench, pool: Pool) -> None:
    between, go_on = threading.Event(), threading.Event()

    def twice(connection: apsw.Connection, _: KnownByUser) -> tuple[object, object]:
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


async def test_reads_that_wait_together_share_a_transaction(pool: Pool) -> None:
    busy = await Busy.begun(pool)
    reads = [_ask(pool, lambda connection, _, n=n: (n, _guests(connection))) for n in range(readers.MAX_TOGETHER + 2)]
    await _all_in_line()
    await busy.end()
    assert await asyncio.gather(*reads) == [(n, 3) for n in range(len(reads))]
    assert pool.transactions == 2


async def test_each_is_given_what_is_young_of_its_own_users(pool: Pool) -> None:
    busy = await Busy.begun(pool)
    of_ann = _ask(pool, lambda _, known: ANN.id in known)
    of_both = _ask(pool, lambda _, known: {ANN.id, BOB.id} <= set(known), ANN.id, BOB.id)
    await _all_in_line()
    await busy.end()
    assert await of_ann
    assert await of_both
    assert pool.transactions == 1


async def test_what_is_copied_at_once_has_a_bound(pool: Pool) -> None:
    """For the writer waits meanwhile. Whoever finds it full is read in the next transaction, in their turn."""
    many = [f"{n:016x}" for n in range(reader.COPIED_TOGETHER)]
    busy = await Busy.begun(pool)
    reads = [_ask(pool, lambda _, known: len(known), *users) for users in ([ANN.id], many, [BOB.id], [ANN.id], many)]
    await _all_in_line()
    await busy.end()
    assert await asyncio.gather(*reads) == [len(many) + 1, len(many) + 1, len(many) + 2] + 2 * [len(many) + 2]
    assert pool.transactions == 2


async def test_a_read_that_fails_fails_alone(ready: Bench, pool: Pool) -> None:
    def refuse(_: apsw.Connection, __: object) -> None:
        raise Refusal(Code.UNKNOWN_USER)

    def wrong(connection: apsw.Connection, _: object) -> None:
        connection.execute("SELECT nothing FROM nowhere")

    endless, busy = Endless(), await Busy.begun(pool)
    asked = [lambda connection, _: _guests(connection), refuse, wrong, endless.of_several]
    reads = [_ask(pool, each) for each in (*asked, asked[0])]
    await _all_in_line()
    await busy.end()
    await endless.begun()
    ready.clock.ahead += reader.READ_SECONDS
    async with asyncio.timeout(TIMEOUT):
        before, refused, failed, interrupted, after = await asyncio.gather(*reads, return_exceptions=True)
    assert before == after == 3
    assert isinstance(refused, Refusal)
    assert refused.code is Code.UNKNOWN_USER
    assert isinstance(failed, apsw.SQLError)
    assert isinstance(interrupted, Refusal)
    assert interrupted.code is Code.UNAVAILABLE
    assert not ready.failures


async def test_who_comes_after_a_slow_read_is_read_in_the_next_transaction(ready: Bench, pool: Pool) -> None:
    order: list[int] = []

    def slow(_: apsw.Connection, __: object) -> None:
        ready.clock.ahead += reader.TOGETHER_SECONDS * 2

    busy = await Busy.begun(pool)
    reads = [_ask(pool, slow), *(_ask(pool, lambda _, __, n=n: order.append(n)) for n in range(3))]
    await _all_in_line()
    await busy.end()
    await asyncio.gather(*reads)
    assert order == [0, 1, 2]
    assert pool.transactions == 2


async def test_what_nobody_waits_for_is_not_read(pool: Pool) -> None:
    asked: list[int] = []
    busy = await Busy.begun(pool)
    reads = [_ask(pool, lambda _, __, n=n: asked.append(n)) for n in range(3)]
    await _all_in_line()
    reads[1].cancel()
    await _all_in_line()
    await busy.end()
    await asyncio.gather(*reads, return_exceptions=True)
    assert asked == [0, 2]


async def test_a_line_that_is_too_long_or_too_slow_is_refused(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also while the one that runs doesn't end."""
    monkeypatch.setattr(readers, "MAX_WAITING", 3)
    monkeypatch.setattr(readers, "WAIT_SECONDS", 0.05)
    busy = await Busy.begun(pool)
    waiting = [_ask(pool, lambda connection, _: _guests(connection)) for _ in range(3)]
    await _all_in_line()
    with pytest.raises(Refusal, match="too many reads"):
        await pool.run(_people)
    for each in waiting:
        with pytest.raises(Refusal, match="too long"):
            await each
    with pytest.raises(Refusal, match="too many reads"):  # nobody has left the line yet, whoever waits or not
        await pool.run(_people)
    with pytest.raises(Refusal, match="too long"):
        await busy.end()
    monkeypatch.undo()
    assert await pool.run(_people) == 3


async def test_a_disk_that_fails_is_heard_of_even_if_nobody_waits(ready: Bench, pool: Pool) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def fail(_: apsw.Connection) -> None:
        begun.set()
        go_on.wait(TIMEOUT)
        raise apsw.IOError("disk I/O error")

    reading = asyncio.ensure_future(pool.run(fail))
    await asyncio.to_thread(begun.wait, TIMEOUT)
    reading.cancel()
    go_on.set()
    await pool.close()
    assert reading.cancelled()
    assert [type(each) for each in ready.failures] == [StoreFailed]


async def test_an_error_that_ends_the_transaction_ends_the_batch(ready: Bench, pool: Pool) -> None:
    """SQLite gives it up when a disk or memory fails. What follows is of another moment, and so must be what is copied."""

    def fail(connection: apsw.Connection, _: object) -> None:
        connection.execute("ROLLBACK")
        raise apsw.NoMemError("out of memory")

    busy = await Busy.begun(pool)
    failing, after = (
        _ask(pool, fail),
        _ask(pool, lambda connection, _: (connection.in_transaction, _guests(connection))),
    )
    await _all_in_line()
    await busy.end()
    with pytest.raises(apsw.NoMemError):
        await failing
    assert await after == (True, 3)
    assert pool.transactions == 2
    assert not ready.failures


async def test_a_transaction_that_could_not_be_ended_is_not_read_from(ready: Bench, pool: Pool) -> None:
    def keep(what: int, name: str | None, *_: object) -> int:
        return apsw.SQLITE_DENY if (what, name) == (apsw.SQLITE_TRANSACTION, "COMMIT") else apsw.SQLITE_OK

    def read(connection: apsw.Connection, _: object) -> object:
        connection.authorizer = keep
        return _guests(connection)

    with pytest.raises(apsw.AuthError):
        await _ask(pool, read)
    await ready.store.end_session(ANN.id.encode())
    assert await pool.run(_guests) == 2


class Page:
    """An answer of which it can be told when it has gone."""


async def test_a_refusal_keeps_no_other_answer_alive(pool: Pool) -> None:
    def refuse(_: apsw.Connection, __: object) -> None:
        raise Refusal(Code.UNKNOWN_USER)

    gc.collect()
    gc.disable()
    try:
        busy = await Busy.begun(pool)
        refused, answered = _ask(pool, refuse), _ask(pool, lambda _, __: Page())
        await _all_in_line()
        await busy.end()
        with pytest.raises(Refusal):
            await refused
        page = weakref.ref(await answered)
        del answered
        await pool.run(_people)  # the thread has forgotten it as well
        assert page() is None
    finally:
        gc.enable()


async def test_an_error_that_no_future_takes_is_told_as_another(pool: Pool) -> None:
    """And those who are answered after it have their answers."""
    busy = await Busy.begun(pool)
    failing, after = _ask(pool, lambda _, __: next(iter(()))), _ask(pool, lambda connection, _: _guests(connection))
    await _all_in_line()
    await busy.end()
    async with asyncio.timeout(readers.WAIT_SECONDS / 2):
        with pytest.raises(RuntimeError, match="StopIteration"):
            await failing
        assert await after == 3


async def test_an_error_leaves_no_statement_half_done(pool: Pool) -> None:
    def fail(connection: apsw.Connection, _: object) -> None:
        half = connection.execute("SELECT id FROM person")
        next(half)
        raise ValueError("no answer")

    with pytest.raises(ValueError, match="no answer") as raised:
        await _ask(pool, fail)
    assert raised.traceback[-1].name == "fail"
    assert await pool.run(lambda connection: connection.txn_state()) == apsw.SQLITE_TXN_NONE


async def test_two_share_what_waits(ready: Bench) -> None:
    """So that what comes after a slow read is answered by the other one meanwhile."""
    both = Readers(
        [open_reader(ready.folder / "messages.db", 1) for _ in range(2)], Young(), ready.clock, ready.failures.append
    )
    begun, go_on = [threading.Event() for _ in range(2)], threading.Event()

    def hold(_: apsw.Connection, n: int) -> None:
        begun[n].set()
        assert go_on.wait(TIMEOUT)

    holding = [asyncio.ensure_future(both.run(hold, n)) for n in range(2)]
    for each in begun:
        await asyncio.to_thread(each.wait, TIMEOUT)
    slow = threading.Event()
    first = asyncio.ensure_future(both.run(lambda _: slow.wait(TIMEOUT)))
    others = [asyncio.ensure_future(both.run(_people)) for _ in range(readers.MAX_TOGETHER)]
    await _all_in_line()
    go_on.set()
    await asyncio.gather(*holding)
    async with asyncio.timeout(TIMEOUT / 2):
        while sum(each.done() for each in others) < len(others) // 2:
            await asyncio.wait([each for each in others if not each.done()], return_when=asyncio.FIRST_COMPLETED)
    assert not first.done()
    slow.set()
    assert await first
    assert await asyncio.gather(*others) == [3] * len(others)
    await both.close()


async def test_a_close_finishes_what_runs_and_refuses_what_waits(pool: Pool) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def run(_: apsw.Connection) -> str:
        begun.set()
        go_on.wait(TIMEOUT)
        return "done"

    running = asyncio.ensure_future(pool.run(run))
    await asyncio.to_thread(begun.wait, TIMEOUT)
    waiting = _ask(pool, lambda connection, _: _guests(connection))
    await _all_in_line()
    closing = asyncio.ensure_future(pool.close())
    with pytest.raises(Refusal, match="closed"):
        await waiting
    with pytest.raises(Refusal, match="closed"):
        await pool.run(_people)
    go_on.set()
    await closing
    assert await running == "done"
