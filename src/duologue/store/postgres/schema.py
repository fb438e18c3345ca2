"""Brings a database to this version's schema, one numbered file of `schema/` in one transaction each.

`duologue.meta` holds one row of each: `schema_version` (the last file that ran), `oldest_reader` (the oldest schema
version whose code can still use the data), `epoch`, `namespace` (by which the nodes of one installation know each other on the
bus), and `server` and `timeline` (on which database server, and in which of its lives, those were given out).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator
from importlib import resources
from typing import Final, NamedTuple

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement

from duologue.domain.errors import StoreUnusable
from duologue.store.postgres import prepared
from duologue.store.postgres.connection import Connection

OLDEST_READERS: Final = {1: 1, 2: 1}
"""For each schema version the oldest version of this code's schema that can still read and write it: nodes of both run
side by side during an upgrade. At least the one before, so that there's a way from each release to the next without a pause."""

VERSION: Final = max(OLDEST_READERS)

OLDEST_SERVER: Final = 150_000
"""PostgreSQL 15."""

_LOCK: Final = 0x44554F4C
"""`DUOL`: the advisory lock of whoever migrates."""

_STANDSTILL: Final = 3
"""Seconds between two commands after which the server ends the session of whoever migrates: well before those who wait for the
lock give up (`lock_timeout`)."""

MIGRATION: Final = "migration"
"""The row of `meta` that says how far a migration into this database has come."""

_MIGRATING: Final = 0x44554F4D
"""The advisory lock of a migration. Each node's writing connection shares it."""

_RUNNING: Final = 0x44554F4E
"""With a schema version as its second key, the advisory lock that the writing connections of that version's nodes share."""

# The first 8 digits of a log file's name are the timeline: one more after each promotion and each restore to a point in time.
_PLACE = """
    SELECT
        system_identifier::text, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8),
        (SELECT value FROM duologue.meta WHERE name = 'server'), (SELECT value FROM duologue.meta WHERE name = 'timeline'),
        (SELECT value FROM duologue.meta WHERE name = 'epoch'), (SELECT value FROM duologue.meta WHERE name = 'namespace')
    FROM pg_control_system()
"""

_META: Final = """
    CREATE SCHEMA IF NOT EXISTS duologue;
    CREATE TABLE duologue.meta (name text PRIMARY KEY, value text NOT NULL);
"""

_WRITE: Final = "INSERT INTO duologue.meta VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"


class Identity(NamedTuple):
    epoch: str
    namespace: str


async def prepare(connection: Connection) -> Identity:
    """Check the server and the data, migrate what is older, and return what `identify` does. Nodes that start together take
    turns. Raises `StoreUnusable`; then nothing was changed.
    """
    number = connection.get_server_version()
    if number.major * 10_000 < OLDEST_SERVER:
        raise StoreUnusable(f"PostgreSQL 15 or newer is needed, and this is {number.major}.{number.minor}")
    if not await keep_migrations_out(connection):
        raise StoreUnusable("a migration from or to the database is under way")
    try:
        await make(connection)
        return await identify(connection)
    finally:
        await let_migrations_in(connection)


async def keep_migrations_out(connection: Connection) -> bool:
    """For as long as this connection lives. False if one is under way."""
    return bool(await connection.fetchval("SELECT pg_try_advisory_lock_shared($1)", _MIGRATING))


async def let_migrations_in(connection: Connection) -> None:
    """Undo `keep_migrations_out`."""
    await connection.execute("SELECT pg_advisory_unlock_shared($1)", _MIGRATING)


async def end_migration(connection: Connection) -> None:
    """Undo `check_for_migration`: servers may be started."""
    await connection.execute("SELECT pg_advisory_unlock($1)", _MIGRATING)


async def make(connection: Connection) -> None:
    """Bring the schema up to date. Raises `StoreUnusable` if a node is running that couldn't use it any more."""
    if not _files_after(await _check(connection)):
        return
    async with _alone(connection):
        if new := _files_after(await _check(connection)):
            async with _without_nodes_that_cannot_use(connection, new[-1][0]):
                for number, text in new:
                    await _run(connection, number, text)


async def join(connection: Connection) -> None:
    """Say that a node of this version is running, for as long as this connection lives. Raises `StoreUnusable` if the data has
    become too new for it, or is about to."""
    if not await connection.fetchval("SELECT pg_try_advisory_lock_shared($1, $2)", _RUNNING, VERSION):
        raise StoreUnusable(f"the database is being upgraded to a schema that is too new for this one ({VERSION})")
    await _check(connection)


async def leave(connection: Connection) -> None:
    """Undo `join` and `keep_migrations_out`."""
    await connection.execute("SELECT pg_advisory_unlock_all()")


@contextlib.asynccontextmanager
async def _alone(connection: Connection) -> AsyncIterator[None]:
    """Nobody else changes the schema; the server ends a session that stands still meanwhile."""
    await connection.execute(f"SET idle_session_timeout = '{_STANDSTILL}s'")
    # Held by the session and not by a transaction: one that waited for it might still see the catalogue of before.
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        yield
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)
        await connection.execute("RESET idle_session_timeout")


@contextlib.asynccontextmanager
async def _without_nodes_that_cannot_use(connection: Connection, number: int) -> AsyncIterator[None]:
    """Keep them out, or raise `StoreUnusable` if one is there."""
    kept_out: list[int] = []
    try:
        for version in range(1, OLDEST_READERS[number]):
            if not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", _RUNNING, version):
                raise StoreUnusable(
                    f"nodes with schema {version} are running, which can't use schema {number}: bring them to a release with "
                    f"schema {OLDEST_READERS[number]} first, or stop them all"
                )
            kept_out.append(version)
        yield
    finally:
        for version in kept_out:
            await connection.execute("SELECT pg_advisory_unlock($1, $2)", _RUNNING, version)


async def identify(connection: Connection) -> Identity:
    """What this database is. To be asked on every new connection, for it may lead to another server than the last one.

    The epoch changes when the data is on another server, restored from a dump, and also when the server has another life: a
    standby has taken over, or an older state was restored. Then numbers may be given out again that clients have seen on
    something else. The namespace changes with the server only, so that nodes find each other while some of them haven't
    noticed yet.
    """
    (place,) = await connection.fetch(_PLACE)
    found = _known(place)
    if found is not None:
        return found
    statements = await prepared.prepare(connection, (_PLACE, _WRITE))
    async with connection.transaction():
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        (place,) = await statements[_PLACE].fetch()
        return _known(place) or await _begin_life(place, statements[_WRITE])


async def check_for_migration(connection: Connection) -> str | None:
    """Keep servers out for as long as this connection lives, and return the epoch; None if there's nothing yet. Raises
    `StoreUnusable` if a server is connected, or the schema isn't this version's."""
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _MIGRATING):
        raise StoreUnusable("the database is in use, by a server or another migration; stop every node first")
    if await connection.fetchval("SELECT to_regclass('duologue.meta')") is None:
        return None
    version = int(str(await read(connection, "schema_version")))
    if version != VERSION:
        raise StoreUnusable(
            f"the database has schema {version}, this one knows {VERSION}: start this version on it once"
        )
    return (await identify(connection)).epoch


async def _check(connection: Connection) -> int:
    """The schema version of the data, 0 for none."""
    if await connection.fetchval("SELECT to_regclass('duologue.meta')") is None:
        return 0
    version = int(str(await read(connection, "schema_version")))
    oldest = int(str(await read(connection, "oldest_reader")))
    if oldest > VERSION:
        raise StoreUnusable(
            f"the database was written by a newer Duologue (its schema {version} can be used by {oldest} and newer, this one has "
            f"{VERSION}): install the release that the other nodes run"
        )
    if await read(connection, MIGRATION) is not None:
        raise StoreUnusable(
            "a migration into the database isn't finished: run the same `duologue migrate` again to go on with it"
        )
    return version


async def _run(connection: Connection, number: int, text: str) -> None:
    """In one command, which is a transaction: nobody can be cut off in the middle of it, with whole tables locked."""
    await connection.execute(
        f"""
        {_META if number == 1 else ""}
        {text}
        ;
        INSERT INTO duologue.meta VALUES ('schema_version', '{number}'), ('oldest_reader', '{OLDEST_READERS[number]}')
            ON CONFLICT (name) DO UPDATE SET value = excluded.value
        """
    )


def _known(place: asyncpg.Record) -> Identity | None:
    """What was written down, if it was here. `place` is the answer to `_PLACE`."""
    server, timeline, known_server, known_timeline, epoch, namespace = place
    if (server, timeline) != (known_server, known_timeline) or namespace is None:
        return None
    return Identity(epoch, namespace)


async def _begin_life(place: asyncpg.Record, write: PreparedStatement[asyncpg.Record]) -> Identity:
    server, timeline, known_server, _, _, namespace = place
    if server != known_server or namespace is None:
        namespace = secrets.token_hex(8)
    epoch = secrets.token_hex(8)
    rows = {"server": server, "timeline": timeline, "epoch": epoch, "namespace": namespace}
    for name, value in rows.items():
        await write.fetch(name, value)
    return Identity(epoch, namespace)


async def read(connection: Connection, name: str) -> str | None:
    value = await connection.fetchval("SELECT value FROM duologue.meta WHERE name = $1", name)
    return None if value is None else str(value)


async def write(connection: Connection, name: str, value: str) -> None:
    await connection.execute(_WRITE, name, value)


def _files_after(version: int) -> list[tuple[int, str]]:
    return [(number, text) for number, text in _files() if number > version]


def _files() -> list[tuple[int, str]]:
    folder = resources.files(__package__) / "schema"
    return sorted(
        (int(file.name[:4]), file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".sql")
    )
