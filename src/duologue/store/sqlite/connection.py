"""How a connection to the database is set up, the same way everywhere."""

from __future__ import annotations

from pathlib import Path

import apsw

WRITER_CACHE = 64 * 1024 * 1024
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


def open_reader(path: Path, busy_timeout: float, vfs: str | None = None) -> apsw.Connection:
    connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READWRITE, vfs=vfs)
    connection.set_busy_timeout(int(busy_timeout * 1000))
    connection.pragma("query_only", True)
    connection.pragma("cache_size", -READER_CACHE // 1024)
    connection.pragma("temp_store", "memory")
    connection.pragma("trusted_schema", False)
    return connection
