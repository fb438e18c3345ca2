"""The store on SQLite: opens the folder, wires writer and readers together, and closes both."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import apsw

from duologue.domain.errors import Refusal, StoreUnusable
from duologue.domain.model import DirectoryPage, HistoryPage, Person, Roster, SyncPage, User
from duologue.domain.ports import Clock, Pending, Sink
from duologue.store.committer import MAX_BATCH, MAX_PENDING, Committer
from duologue.store.sqlite import queries, schema
from duologue.store.sqlite.backfill import Backfill
from duologue.store.sqlite.chunked import CODE, FIRST_WITH_CHUNKS
from duologue.store.sqlite.chunks import SEQ_BITS
from duologue.store.sqlite.connection import open_backfill, open_reader, open_to_look, open_writer
from duologue.store.sqlite.files import Folder
from duologue.store.sqlite.readers import READERS, Readers
from duologue.store.sqlite.wal import MAX_WAL, Wal
from duologue.store.sqlite.writer import Writer
from duologue.store.sqlite.young import Young
from duologue.store.work import Departure, NewGuest, SessionEnd

BUSY_TIMEOUT = 2.0
"""Seconds to wait for another process that locks the database, before a batch is refused as UNAVAILABLE."""

_log = logging.getLogger(__name__)

_STRAYS = """
    SELECT EXISTS (SELECT 1 FROM dialog
        WHERE user NOT IN (SELECT key FROM person) OR peer NOT IN (SELECT key FROM person))
"""
_STRAY_CHUNKS = f"SELECT EXISTS (SELECT 1 FROM chunk WHERE key >> {SEQ_BITS} NOT IN (SELECT conversation FROM dialog))"
"""References to people and conversations that don't exist, where a declared foreign key would cost the writer a lookup a
row."""


class SqliteStore:
    """`duologue.domain.ports.Store` in one folder. Made by `open`; one process at a time."""

    def __init__(
        self, epoch: str, committer: Committer, writer: Writer, readers: Readers, folder: Folder, clock: Clock
    ) -> None:
        self.epoch = epoch
        self.refusal: Callable[[], Refusal | None] = committer.refusal
        self.submit: Callable[[Pending], None] = committer.submit
        """`Store.submit`; the committer's own, for it is called for every message."""
        self._committer = committer
        self._writer = writer
        self._readers = readers
        self._folder = folder
        self._clock = clock
        self._closing: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls,
        folder: Path,
        clock: Clock,
        sink: Sink,
        on_failure: Callable[[BaseException], None],
        *,
        busy_timeout: float = BUSY_TIMEOUT,
        max_pending: int = MAX_PENDING,
        max_batch: int = MAX_BATCH,
        max_wal: int = MAX_WAL,
        synchronous: str = "FULL",
        vfs: str | None = None,
    ) -> SqliteStore:
        """Open or make the store in `folder` and start its threads. `sink` and `on_failure` are called on this loop.

        `synchronous` and `vfs` are for tests that prove what FULL is for. Raises `StoreUnusable`, and then nothing was
        touched: the folder is in use, can't be written, is newer, damaged, or isn't ours.
        """
        held = await asyncio.to_thread(Folder, folder)
        connections: list[apsw.Connection] = []
        try:
            opened = await asyncio.to_thread(_open, held, busy_timeout, synchronous, vfs, connections)
            epoch, incarnation = opened
            writing, moving, *reading = connections
            wal = Wal(writing, clock, max_wal, Backfill(moving))
            young = Young()
            writer = Writer(writing, wal, young, clock, synchronous, lambda: held.write_mark(incarnation, clean=True))
        except BaseException as error:
            for connection in connections:
                connection.close(True)
            held.release()
            if isinstance(error, apsw.Error | OSError):
                raise StoreUnusable(_unusable(held.database, error)) from error
            raise
        committer = Committer(writer, asyncio.get_running_loop(), sink, on_failure, max_pending, max_batch)
        readers = Readers(reading, young, clock, committer.fail)
        committer.start()
        return cls(epoch, committer, writer, readers, held, clock)

    async def create_guest(self, user: User, token_hash: bytes) -> None:
        future = asyncio.get_running_loop().create_future()
        await self._committer.run(NewGuest(future, user.id, user.name, token_hash, self._clock.wall_ms()))

    async def seen(self, users: Sequence[str], at: int) -> None:
        await self._committer.run(Departure(asyncio.get_running_loop().create_future(), users, at))

    async def end_session(self, token_hash: bytes) -> None:
        await self._committer.run(SessionEnd(asyncio.get_running_loop().create_future(), token_hash))

    async def session_user(self, token_hash: bytes) -> User | None:
        return await self._readers.run(queries.session_user, token_hash)

    async def sessions(self, token_hashes: Sequence[bytes]) -> frozenset[bytes]:
        return await self._readers.run(queries.sessions, token_hashes)

    async def people(self, ids: Sequence[str]) -> list[Person]:
        return await self._readers.run(queries.people, ids)

    def people_count(self) -> int:
        return self._writer.people

    async def directory(self, after: str, limit: int) -> DirectoryPage:
        return await self._readers.run(queries.directory, after, limit)

    async def peers(self, users: Sequence[str], limit: int) -> dict[str, list[str]]:
        return await self._readers.run_for(users, queries.peers, users, limit)

    async def versions(self, users: Sequence[str]) -> dict[str, int]:
        return await self._readers.run_for(users, queries.versions, users)

    async def sync(
        self, user: str, since: int | None, before: int | None, conversations: int, per_conversation: int, total: int
    ) -> SyncPage:
        return await self._readers.run_for(
            (user,), queries.sync, user, since, before, conversations, per_conversation, total
        )

    async def roster(
        self, user: str, everybody_up_to: int, acquaintances: int, per_conversation: int, total: int
    ) -> Roster:
        return await self._readers.run_for(
            (user,), queries.roster, user, everybody_up_to, acquaintances, per_conversation, total
        )

    async def history(self, user: str, peer: str, before: int | None, after: int | None, limit: int) -> HistoryPage:
        return await self._readers.run_for((user,), queries.history, user, peer, before, after, limit)

    async def close(self) -> None:
        """See `Store.close`. Safe to call twice; after a failure it releases the files and leaves no clean mark."""
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        await asyncio.shield(self._closing)

    async def _close(self) -> None:
        try:
            # Readers first: with them gone the writer, the last connection, can empty and remove the log.
            await self._readers.close()
            await self._committer.close()
        finally:
            self._folder.release()


def _open(
    held: Folder, busy_timeout: float, synchronous: str, vfs: str | None, connections: list[apsw.Connection]
) -> tuple[str, str]:
    """Open all connections into `connections`, the writer's first and its backfill's second, and return epoch and incarnation."""
    held.make_database_file()
    mark = held.read_mark()
    first = open_to_look(held.database, busy_timeout, vfs)
    try:
        version = schema.check(first)
        held.claim()
        left = held.is_left_as(mark, str(schema.read(first, "incarnation"))) if version else False
        if version and not (left and mark is not None and mark.clean):
            _log.warning("the last stop wasn't a clean one, or the files were replaced: checking the database")
            _check(first, version)
    finally:
        first.close()
    writing = open_writer(held.database, busy_timeout, synchronous, vfs)
    connections.append(writing)
    schema.migrate(writing, version, CODE)
    epoch, incarnation = _begin_incarnation(writing, same=left or not version)
    held.write_mark(incarnation, clean=False)
    connections.append(open_backfill(held.database, busy_timeout, synchronous, vfs))
    connections.extend(open_reader(held.database, busy_timeout, vfs) for _ in range(READERS))
    return epoch, incarnation


def _begin_incarnation(connection: apsw.Connection, *, same: bool) -> tuple[str, str]:
    """Mark this run in the database, with a new epoch unless it is the `same` database that the last run left. The
    mark in the folder follows; a crash between the two costs every client one needless resync, never a wrong one."""
    incarnation = schema.new_token()
    connection.execute("BEGIN IMMEDIATE")
    schema.write(connection, "incarnation", incarnation)
    if not same:
        _log.warning("this database isn't the one that the last run left here: every client will sync from the start")
        schema.write(connection, "epoch", schema.new_token())
    connection.execute("COMMIT")
    return str(schema.read(connection, "epoch")), incarnation


def _check(connection: apsw.Connection, version: int) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").get
    if verdict != "ok":
        words = " ".join(str(verdict).split())
        raise StoreUnusable(f"{connection.filename} is damaged ({words}); restore a backup")
    lost = connection.execute("PRAGMA foreign_key_check").fetchall() or connection.execute(_STRAYS).get
    if lost or (version >= FIRST_WITH_CHUNKS and connection.execute(_STRAY_CHUNKS).get):
        raise StoreUnusable(
            f"{connection.filename} is damaged (a row refers to somebody or something that isn't there); restore a backup"
        )


def _unusable(database: Path, error: Exception) -> str:
    if isinstance(error, apsw.NotADBError | apsw.CorruptError):
        return f"{database} is damaged or not a database ({error}); restore a backup"
    if isinstance(error, apsw.BusyError):
        return f"{database} is locked by another program"
    return f"{database} can't be used: {error}"
