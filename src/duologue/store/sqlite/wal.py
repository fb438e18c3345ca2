"""Keeps the write-ahead log short, without making anybody wait for it at a bad moment.

The writer moves the log into the database between batches, after the last one's results have left: when nobody has written
for a moment and the log is worth it, or, under lasting load, when it has grown to `CHECKPOINT_PAGES`. Nobody writes
meanwhile, so a passive checkpoint gets to the end unless a reader holds an old snapshot, and the next write starts the
log from its beginning again.

A reader that stays (a backup tool, a forgotten shell) stops that: the log then grows with every write. It is watched,
said in the log, and bounded by `MAX_WAL`.
"""

from __future__ import annotations

import logging

import apsw

from duologue.domain.ports import Clock

IDLE_PAGES = 250
"""Pages of log that make a checkpoint worth an idle moment (1 MB). That nothing waits after a batch is no such moment: with a
thousand messages a second it's so nearly always, and one in a hundred would wait for a checkpoint."""

CHECKPOINT_PAGES = 1_000
"""Pages of log that make a checkpoint due under load (4 MB). The next batch waits for it: eight times as many took a tenth
of a microsecond less for each message, and stopped everybody for four times as long (docs/decisions/store-sqlite.md)."""

ALARM_PAGES = 32_000
"""Pages of log at which a warning is due: somebody holds an old snapshot."""

AT_REST = 16 * 1024 * 1024
"""Bytes to which the log's file is cut when it was longer."""

MAX_WAL = 4 * 1024 * 1024 * 1024
"""Bytes of log beyond which writes are refused, so that a forgotten reader doesn't fill the disk."""

RETRY_SECONDS = 1.0
"""A checkpoint that a reader stopped isn't tried again sooner."""

WARN_SECONDS = 60.0
"""At most one warning in this time."""

_log = logging.getLogger(__name__)


class Wal:
    """The log of one writing connection. All on the writer thread."""

    def __init__(self, connection: apsw.Connection, clock: Clock, max_wal: int = MAX_WAL) -> None:
        self._connection = connection
        self._clock = clock
        self._page_size = int(connection.pragma("page_size"))
        self._max_pages = max_wal // self._page_size
        self._pages = 0
        self._held = False
        self._refusing = False
        self._next_try = clock.monotonic()
        self._next_warning = self._next_try
        connection.pragma("journal_size_limit", AT_REST)
        connection.set_wal_hook(self._committed)  # takes the place of SQLite's own automatic checkpoint

    @property
    def pages(self) -> int:
        """Pages in the log after the last commit."""
        return self._pages

    def too_long(self) -> bool:
        """Whether the log is at its bound and a reader still keeps it from being emptied."""
        if self._pages < self._max_pages:
            return False
        self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        if self._held and not self._refusing:
            _log.error("the write-ahead log is at its bound: writes are refused until the old snapshot is let go of")
            self._refusing = True
        return self._held

    def tidy(self, idle: bool, all: bool = False) -> None:
        """Checkpoint if it is due; with `all` whatever is there, and cut the file."""
        if all:
            self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)
        elif self._pages >= (IDLE_PAGES if idle else CHECKPOINT_PAGES):
            self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)

    def _checkpoint(self, mode: int) -> None:
        if self._held and mode == apsw.SQLITE_CHECKPOINT_PASSIVE and self._clock.monotonic() < self._next_try:
            return
        try:
            pages, done = self._connection.wal_checkpoint(mode=mode)
        except (apsw.BusyError, apsw.LockedError):
            pages, done = self._pages, 0
        except apsw.FullError as error:
            # The log keeps what is committed; the database file takes it when there is space again.
            _log.error("no space to move the log into the database: %s", error)
            pages, done = self._pages, 0
        self._held = done < pages
        now = self._clock.monotonic()
        if self._held:
            self._next_try = now + RETRY_SECONDS
            if pages >= ALARM_PAGES and now >= self._next_warning:
                self._next_warning = now + WARN_SECONDS
                size = pages * self._page_size / 1e6
                _log.warning("the write-ahead log has %.0f MB: another process holds an old snapshot open", size)
        else:
            self._pages = 0
            self._refusing = False

    def _committed(self, _connection: apsw.Connection, _database: str, pages: int) -> int:
        self._pages = pages
        return apsw.SQLITE_OK
