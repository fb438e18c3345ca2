"""The store of several nodes: PostgreSQL by asyncpg, one writing connection and a few reading ones for each node."""

from __future__ import annotations

from duologue.store.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
