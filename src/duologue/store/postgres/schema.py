"""Brings a database to this version's schema, one numbered file of `schema/` in one transaction each.

`duologue.meta` holds one row of each: `schema_version` (the last file that ran), `oldest_reader` (the oldest schema
version whose code can still use the data), `epoch`, and `server` (which database server gave the epoch out).
"""

from __future__ import annotations

import secrets
from importlib import resources
from typing import Final

from duologue.domain.errors import StoreUnusable
from duologue.store.postgres.connection import Connection

OLDEST_READERS: Final = {1: 1, 2: 1}
"""For each schema version the oldest version of this code's schema that can still read and write it: nodes of both run
side by side during an upgrade."""

VERSION: Final = max(OLDEST_READERS)

OLDEST_SERVER: Final = 150_000
"""PostgreSQL 15."""

_LOCK: Final = 0x44554F4C
"""`DUOL`: the advisory lock of whoever migrates."""

MIGRATION: Final = "migration"
"""The row of `meta` that says how far a migration into this database has come."""

_MIGRATING: Final = 0x44554F4D
"""The advisory lock of a migration. Each node's writing connection shares it."""

_SERVER = "SELECT system_identifier::text FROM pg_control_system()"


async def prepare(connection: Connection) -> str:
    """Check the server and the data, migrate what is older, and return the epoch. Nodes that start together take turns.
    Raises `StoreUnusable`; then nothing was changed.

    The epoch changes when the data lies on another server than the one it was given out on: it was restored from a dump
    there. A standby that takes over is the same server in this sense.
    """
    number = connection.get_server_version()
    if number.major * 10_000 < OLDEST_SERVER:
        raise StoreUnusable(f"PostgreSQL 15 or newer is needed, and this is {number.major}.{number.minor}")
    if not await keep_migrations_out(connection):
        raise StoreUnusable("a migration from or to the database is under way")
    try:
        return await make(connection)
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


async def make(connection: Connection) -> str:
    """Bring the schema up to date and return the epoch."""
    # Held by the session and not by a transaction: one that waited for it might still see the catalogue of before.
    await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
    try:
        version = await _check(connection)
        for file_number, text in _files():
            if version < file_number:
                async with connection.transaction():
                    await _run(connection, file_number, text)
        async with connection.transaction():
            return await _epoch(connection)
    finally:
        await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


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
    return await read(connection, "epoch")


async def _check(connection: Connection) -> int:
    """The schema version of the data, 0 for none."""
    if await connection.fetchval("SELECT to_regclass('duologue.meta')") is None:
        return 0
    version = int(str(await read(connection, "schema_version")))
    oldest = int(str(await read(connection, "oldest_reader")))
    if oldest > VERSION:
        raise StoreUnusable(
            f"the database was written by a newer Duologue (schema {version}, this one knows {VERSION}); start that version"
        )
    if await read(connection, MIGRATION) is not None:
        raise StoreUnusable(
            "a migration into the database isn't finished: run the same `duologue migrate` again to go on with it"
        )
    return version


async def _run(connection: Connection, number: int, text: str) -> None:
    if number == 1:
        await connection.execute("CREATE SCHEMA IF NOT EXISTS duologue")
        await connection.execute("CREATE TABLE duologue.meta (name text PRIMARY KEY, value text NOT NULL)")
    await connection.execute(text)
    await write(connection, "schema_version", str(number))
    await write(connection, "oldest_reader", str(OLDEST_READERS[number]))


async def _epoch(connection: Connection) -> str:
    server = str(await connection.fetchval(_SERVER))
    epoch = await read(connection, "epoch")
    if epoch is None or await read(connection, "server") != server:
        epoch = secrets.token_hex(8)
        await write(connection, "epoch", epoch)
        await write(connection, "server", server)
    return epoch


async def read(connection: Connection, name: str) -> str | None:
    value = await connection.fetchval("SELECT value FROM duologue.meta WHERE name = $1", name)
    return None if value is None else str(value)


async def write(connection: Connection, name: str, value: str) -> None:
    await connection.execute(
        "INSERT INTO duologue.meta VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value", name, value
    )


def _files() -> list[tuple[int, str]]:
    folder = resources.files(__package__) / "schema"
    return sorted(
        (int(file.name[:4]), file.read_text("utf-8")) for file in folder.iterdir() if file.name.endswith(".sql")
    )
