"""The embedded store: SQLite by apsw, one writer, a few readers, one folder."""

from __future__ import annotations

from duologue.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
