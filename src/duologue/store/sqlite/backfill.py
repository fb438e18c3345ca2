"""Moves most of the write-ahead log into the database beside the writer, so that the writer's own checkpoint is a short one.

SQLite lets one connection write while another checkpoints (https://www.sqlite.org/wal.html, "Concurrency"). But the log
starts over only when all of it has been moved while nobody writes, so the last pages are the writer's to move (`wal.py`). Only
then SQLite syncs the database: so it's synced here before, or the writer would wait until the disk has taken all of them.
"""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor

import apsw

from duologue.store.committer import yield_to_the_loop
from duologue.store.sqlite.file_sync import sync_database

_log = logging.getLogger(__name__)


class Backfill:
    """One thread with a connection of its own. Every method belongs to the writer's thread."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._thread = ThreadPoolExecutor(1, "duologue-backfill", initializer=yield_to_the_loop)
        self._work: Future[None] | None = None

    def begin(self) -> None:
        """Move what is in the log now. Returns at once. Without a thread nothing is moved, and the writer has it all to do."""
        try:
            self._work = self._thread.submit(self._move)
        except RuntimeError as error:
            _log.warning("the system gives no thread to move the log into the database: %s", error)

    @property
    def under_way(self) -> bool:
        return self._work is not None and not self._work.done()

    def finish(self) -> None:
        """Wait for the end of what was begun. Raises what went wrong with it, once."""
        work, self._work = self._work, None
        if work is not None:
            work.result()

    def close(self) -> None:
        """End the thread and its connection. What went wrong is left: the log still has it all."""
        self._thread.shutdown()
        self._connection.close(True)

    def _move(self) -> None:
        try:
            self._connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
        except (apsw.BusyError, apsw.LockedError, apsw.FullError):
            return  # the writer's own checkpoint meets the same, and says it
        sync_database(self._connection)
