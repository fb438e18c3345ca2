"""How a connection to the database is set up, the same way everywhere."""

from __future__ import annotations

from pathlib import Path

import apsw

WRITER_CACHE = 16 * 1024 * 1024
"""Bytes of pages that the writer keeps; measured in docs/decisions/store-sqlite.md."""

READER_CACHE = 16 * 1024 * 1024
"""Bytes of pages that each reader keeps."""


def open_writer(path: Path, busy_timeout: float, synchronous: str, vfs: str | None = None) -> apsw.Connection:
    """The one connection that writes. `busy_timeout` in seconds; `vfs` names an apsw VFS, for tests that break it."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    connection.set_busy_timeout(int(busy_timeout * 1000))
    connection.pragma("journal_mode", "wal")
    connection.pragma("synchronous", synchronous)
    connection.pragma("foreign_keys", True)
    connection.pragma("cache_size", -WRITER_CACHE // 1024)
    connection.pragma("temp_store", "memory")
    connection.pragma("trusted_schema", False)
    return connection


def open_backfill(path: Path, busy_timeout: float, synchronous: str, vfs: str | None = None) -> apsw.Connection:
    """The one that only moves the log into the database."""
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    connection.set_busy_timeout(int(busy_timeout * 1000))
    connection.pragma("synchronous", synchronous)
    connection.pragma("wal_autocheckpoint", 0)
    keep_log(connection)
    return connection


def open_reader(path: Path, busy_timeout: float, vfs: str | None = None) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    connection.set_busy_timeout(int(busy_timeout * 1000))
    connection.pragma("query_only", True)
    keep_log(connection)
    connection.pragma("cache_size", -READER_CACHE // 1024)
    connection.pragma("temp_store", "memory")
    connection.pragma("trusted_schema", False)
    return connection


def keep_log(connection: apsw.Connection) -> None:
    """The connection, if it's the last one to be closed, leaves the log. For one that hasn't written, and for any after a
    failure: what SQLite takes for moved into the database by then may be in the log only (`backfill.py`)."""
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def open_to_look(path: Path, busy_timeout: float, vfs: str | None = None) -> apsw.Connection:
    """A connection that leaves no trace in the folder, so that a database which is refused stays as it was.

    Without a log beside it the file alone is the database, and is opened as one that nobody changes. With one, the index
    of the log is kept in memory instead of a -shm file, for which no other program may have the database open; if one
    has, that file is there already and is shared.
    """
    log = path.with_name(f"{path.name}-wal")
    if not (log.exists() and log.stat().st_size):
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        return apsw.Connection(f"{path.absolute().as_uri()}?immutable=1", flags=flags, vfs=vfs)
    alone = _open_to_look(path, vfs)
    alone.pragma("locking_mode", "exclusive")
    try:
        alone.execute("SELECT count(*) FROM sqlite_schema").fetchall()
    except apsw.BusyError:
        alone.close(True)
    else:
        return alone
    shared = _open_to_look(path, vfs)
    shared.set_busy_timeout(int(busy_timeout * 1000))
    return shared


def _open_to_look(path: Path, vfs: str | None) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    # Closing mustn't move the log into the database either.
    connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
    return connection
