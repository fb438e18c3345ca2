"""The store on PostgreSQL: one writing connection on a thread of its own; on the event loop's a pool for reading, and
one that listens."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import asyncpg

from duologue.domain.errors import Code, Refusal, StoreUnusable
from duologue.domain.model import DirectoryPage, HistoryPage, Person, Roster, SyncPage, User
from duologue.domain.ports import Clock, Pending, Sink
from duologue.store.committer import MAX_BATCH, MAX_PENDING, Committer
from duologue.store.postgres import queries, schema
from duologue.store.postgres.connection import (
    DAMAGED,
    LOST,
    Connection,
    connect,
    connect_options,
)
from duologue.store.postgres.ends import SessionEnds
from duologue.store.postgres.registry import PostgresRegistry
from duologue.store.postgres.writer import Writer
from duologue.store.work import Departure, NewGuest, SessionEnd

READERS: Final = 8
"""Reading connections of one node."""

MAX_WAITING: Final = 5_000
"""Reads that wait or run; the next one is refused. A herd of reconnecting clients fits."""

WAIT_SECONDS: Final = 15.0
"""A caller waits no longer than this for a read, its time in the queue and a second attempt included."""

RETRY_PAUSE: Final = 0.2
"""Seconds before a read whose connection was lost is tried again."""

ROLLBACK_TIMEOUT: Final = 1.0
"""Seconds to end a transaction of which nothing is wanted any more; then its connection is given up."""

CLOSE_TIMEOUT: Final = 5.0
"""Seconds for the reading connections to say goodbye."""

COUNT_SECONDS: Final = 5.0
"""Between two counts of the people, whom other nodes add to."""

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger(__name__)


class _Life:
    """Which life of the database this node knows of; see `schema.identify`."""

    def __init__(
        self, identity: schema.Identity, loop: asyncio.AbstractEventLoop, on_new_epoch: Callable[[], None]
    ) -> None:
        self.epoch, self.namespace = identity
        self.idle_may_be_old = False
        """Whether idle reading connections may still lead to the server of the epoch before."""
        self._loop = loop
        self._on_new_epoch = on_new_epoch

    async def greet(self, connection: Connection) -> None:
        """A new reading connection."""
        self._take(await schema.identify(connection))

    def take_soon(self, identity: schema.Identity) -> None:
        """A new connection of the writer, on whose thread this is: the loop hears of it before it gets anything of what the
        writer is about to write."""
        with contextlib.suppress(RuntimeError):  # the loop has ended, and nothing will come back to it
            self._loop.call_soon_threadsafe(self._take, identity)

    def _take(self, identity: schema.Identity) -> None:
        if identity.epoch != self.epoch:
            _log.warning("the database has failed over or was restored: every client will sync from the start")
            self.epoch = identity.epoch
            self.idle_may_be_old = True
            self._on_new_epoch()


class PostgresStore:
    """`duologue.domain.ports.Store` on one database, shared by any number of nodes. Made by `open`."""

    def __init__(
        self,
        url: str,
        life: _Life,
        committer: Committer,
        writer: Writer,
        pool: asyncpg.Pool[asyncpg.Record],
        clock: Clock,
        people: int,
        count_up_to: int,
    ) -> None:
        self._url = url
        self._life = life
        self.refusal: Callable[[], Refusal | None] = committer.refusal
        self.submit: Callable[[Pending], None] = committer.submit
        """`Store.submit`; the committer's own, for it is called for every message."""
        self._committer = committer
        self._writer = writer
        self._pool = pool
        self._clock = clock
        self._counted = people
        self._count_up_to = count_up_to
        self._waiting = 0
        self._open = True
        self._tasks = [asyncio.create_task(self._count(), name="people count")]
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        url: str,
        clock: Clock,
        sink: Sink,
        on_failure: Callable[[BaseException], None],
        *,
        new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
        count_up_to: int = 1001,
        max_pending: int = MAX_PENDING,
        max_batch: int = MAX_BATCH,
        on_new_epoch: Callable[[], None] = lambda: None,
    ) -> PostgresStore:
        """Connect, bring the schema up to date and start the writer's thread, whose loop `new_loop` makes. `sink` and
        `on_failure` are called on this loop. People are counted up to `count_up_to`. `on_new_epoch` is called when the database
        has become another one, see `schema.identify`, before anything that was read from it or written to it comes back.

        Raises `StoreUnusable`: no such server or database, a wrong password, a PostgreSQL too old, data too new.
        """
        loop = asyncio.get_running_loop()
        with _unusable():
            connection = await connect(url)
            try:
                life = _Life(await schema.prepare(connection), loop, on_new_epoch)
                people = await queries.count(connection, count_up_to)
            finally:
                await connection.close(timeout=CLOSE_TIMEOUT)
        writer = Writer(url, clock, new_loop, life.take_soon)
        try:
            with _unusable():
                await asyncio.to_thread(writer.connect)
                pool = await asyncpg.create_pool(
                    url, min_size=0, max_size=READERS, init=cast("Any", life.greet), **connect_options(loop)
                )
        except BaseException:
            await asyncio.to_thread(writer.close)
            raise
        committer = Committer(writer, loop, sink, on_failure, max_pending, max_batch)
        committer.start()
        return cls(url, life, committer, writer, pool, clock, people, count_up_to)

    @property
    def epoch(self) -> str:
        return self._life.epoch

    @property
    def namespace(self) -> str:
        """Nodes with the same one share this database."""
        return self._life.namespace

    async def create_guest(self, user: User, token_hash: bytes) -> None:
        future = asyncio.get_running_loop().create_future()
        await self._committer.run(NewGuest(future, user.id, user.name, token_hash, self._clock.wall_ms()))
        self._counted += 1

    async def seen(self, users: Sequence[str], at: int) -> None:
        await self._committer.run(Departure(asyncio.get_running_loop().create_future(), users, at))

    async def end_session(self, token_hash: bytes) -> None:
        await self._committer.run(SessionEnd(asyncio.get_running_loop().create_future(), token_hash))

    async def session_user(self, token_hash: bytes) -> User | None:
        return await self._read(queries.session_user, token_hash)

    async def sessions(self, token_hashes: Sequence[bytes]) -> frozenset[bytes]:
        return await self._read(queries.sessions, token_hashes)

    async def people(self, ids: Sequence[str]) -> list[Person]:
        return await self._read(queries.people, ids)

    def people_count(self) -> int:
        return self._counted

    async def directory(self, after: str, limit: int) -> DirectoryPage:
        return await self._read(queries.directory, after, limit)

    async def peers(self, users: Sequence[str], limit: int) -> dict[str, list[str]]:
        return await self._read(queries.peers, users, limit)

    async def versions(self, users: Sequence[str]) -> dict[str, int]:
        return await self._read(queries.versions, users)

    async def sync(
        self, user: str, since: int | None, before: int | None, conversations: int, per_conversation: int, total: int
    ) -> SyncPage:
        return await self._read(queries.sync, user, since, before, conversations, per_conversation, total)

    async def roster(
        self, user: str, everybody_up_to: int, acquaintances: int, per_conversation: int, total: int
    ) -> Roster:
        roster = await self._read(queries.roster, user, everybody_up_to, acquaintances, per_conversation, total)
        self._counted = max(self._counted, len(roster.people))
        return roster

    async def history(self, user: str, peer: str, before: int | None, after: int | None, limit: int) -> HistoryPage:
        return await self._read(queries.history, user, peer, before, after, limit)

    async def close(self) -> None:
        """See `Store.close`. Safe to call twice."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        self._open = False
        for task in self._tasks:
            task.cancel()
        # A connection that one of them is making has to be let go of before the loop ends.
        await asyncio.wait(self._tasks, timeout=CLOSE_TIMEOUT)
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()
        finally:
            await self._committer.close()

    async def _count(self) -> None:
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            if self._counted >= self._count_up_to:
                continue  # people are never deleted
            try:
                self._counted = max(self._counted, await self._read(queries.count, self._count_up_to))
            except Refusal as refusal:
                _log.warning("the people can't be counted, trying again: %s", refusal)

    def hear_session_ends(self, on_end: Callable[[str, bytes], None], on_missed: Callable[[], None]) -> None:
        """Until the store is closed; see `SessionEnds`. To be called once."""
        ends = SessionEnds(self._url, self._life.greet, lambda: self._life.epoch, on_end, on_missed)
        self._tasks.append(asyncio.create_task(ends.run(), name="ends of sessions"))

    def registry(self, lease: float) -> PostgresRegistry:
        """This node's hold on who is connected where; it is alive for `lease` seconds after each renewal."""
        return PostgresRegistry(self._run, lease)

    async def _read(
        self, query: Callable[Concatenate[Connection, P], Awaitable[T]], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """The query's answer, from one snapshot."""
        return await self._run(lambda connection: query(connection, *arguments, **named), readonly=True)

    async def _run(self, query: Callable[[Connection], Awaitable[T]], *, readonly: bool, single: bool = False) -> T:
        """Run a query in a transaction, again if the connection is lost; with `single` set it's one statement and needs none.
        Raises `Refusal(UNAVAILABLE)` when too many wait or it takes too long."""
        if not self._open:
            raise Refusal(Code.UNAVAILABLE, "the store is closed")
        if self._waiting >= MAX_WAITING:
            raise Refusal(Code.UNAVAILABLE, "too many queries are waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(WAIT_SECONDS):
                return await self._until_answered(query, readonly, single)
        except TimeoutError:
            raise Refusal(Code.UNAVAILABLE, "the query took too long") from None
        except DAMAGED as error:
            # Whoever needs that page can't be served, here or at any other node; all the others can.
            _log.error("the database is damaged, a query was refused: %s", error)
            raise Refusal(Code.UNAVAILABLE, "the database is damaged") from error
        except asyncpg.PostgresError as error:
            raise Refusal(Code.UNAVAILABLE, str(error)) from error
        finally:
            self._waiting -= 1

    async def _until_answered(self, query: Callable[[Connection], Awaitable[T]], readonly: bool, single: bool) -> T:
        """The answer of one server, the one whose epoch we have when it's there."""
        while True:
            try:
                async with self._pool.acquire(timeout=WAIT_SECONDS) as acquired:
                    connection = cast("Connection", acquired)
                    if self._life.idle_may_be_old:
                        # An old primary that nobody has fenced goes on answering: all connections are made anew, this one
                        # as well.
                        self._life.idle_may_be_old = False
                        await self._pool.expire_connections()
                        continue
                    epoch = self._life.epoch
                    running = _alone(connection, query) if single else _transact(connection, query, readonly)
                    answer = await running
                if epoch == self._life.epoch:
                    return answer
            except LOST as error:
                if isinstance(error, TimeoutError):
                    # The idle ones lead to where this one led, and each would cost a reader as long.
                    await self._pool.expire_connections()
                    raise
                _log.info("a query has lost its connection, trying again: %s", error or type(error).__name__)
                await asyncio.sleep(RETRY_PAUSE)


@contextlib.contextmanager
def _unusable() -> Iterator[None]:
    """Says in one line why the store can't be opened."""
    try:
        yield
    except (*LOST, asyncpg.PostgresError, ValueError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise StoreUnusable(f"the database can't be used: {words}") from error


async def _alone(connection: Connection, query: Callable[[Connection], Awaitable[T]]) -> T:
    """Run a query of a single statement, which commits by itself. Who is cancelled isn't held up."""
    try:
        return await query(connection)
    except BaseException as error:
        if isinstance(error, LOST) or not isinstance(error, asyncpg.PostgresError):
            connection.terminate()
        raise


async def _transact(connection: Connection, query: Callable[[Connection], Awaitable[T]], readonly: bool) -> T:
    """Run a query in a transaction. Who is cancelled, or hears nothing, is held up for `ROLLBACK_TIMEOUT` at most."""
    transaction = connection.transaction(
        isolation="repeatable_read" if readonly else "read_committed", readonly=readonly
    )
    try:
        await transaction.start()
        answer = await query(connection)
        await transaction.commit()
    except BaseException as error:
        usable = False
        try:
            if not isinstance(error, LOST):
                async with asyncio.timeout(ROLLBACK_TIMEOUT):
                    await transaction.rollback()
                usable = True
        except (*LOST, asyncpg.PostgresError):
            pass
        finally:
            if not usable:
                connection.terminate()
        raise
    return answer
