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
