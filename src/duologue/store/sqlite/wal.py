"""Keeps the write-ahead log short, without making anybody wait for it at a bad moment.

The log is moved into the database when nobody has written for a moment and it's worth it, or, under lasting load, when it has
grown to `CHECKPOINT_PAGES` or `BUSY_PAGES`. It's done in two steps. The first moves what is there beside the writer, which goes
on (`backfill.py`), again if much was added meanwhile; the second is the writer's own, between two batches, after the results of
the one before have left, and moves the few pages that are left. Nobody writes then, so a passive checkpoint gets to the end
unless a reader holds an old snapshot, and the next write starts the log from its beginning again.

A reader that stays (a backup tool, a forgotten shell) stops that: the log then grows with every write. It is watched,
said in the log, and bounded by `MAX_WAL`.
"""

from __future__ import annotations

import logging

import apsw

from duologue.domain.ports import Clock
from duologue.store.sqlite.backfill import Backfill

CHECKPOINT_PAGES = 250
"""Pages of log that make a checkpoint due (1 MB). Batches wait while the disk takes them: with four times as many
everybody's p99 was half as long again beside somebody who writes 4 MB a second (docs/decisions/store-sqlite.md)."""

BUSY_BATCH = 250
"""Messages of a batch after which speed is what counts: who waits for so many others waits long anyway."""

BUSY_PAGES = 1_000
"""Pages of log that make a checkpoint due then (4 MB), for it has its price: with a quarter 8% fewer messages were carried in
pairs. Where the writer has to do it alone the next batch waits for all of it: eight times as many took a tenth of a microsecond
less for each message, and stopped everybody for four times as long."""

ROUND_PAGES = 60
"""Pages that are worth moving beside the writer once more before it moves the rest."""

WITHOUT = 16
"""Checkpoints without a first step, after one in which the writer added more than half of what was moved meanwhile."""

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

    def __init__(
        self, connection: apsw.Connection, clock: Clock, max_wal: int = MAX_WAL, backfill: Backfill | None = None
    ) -> None:
        """Without `backfill` the writer does both steps. It's closed with this."""
        self._connection = connection
        self._backfill = backfill
        self._rounds = 0
        """How often the first step was begun since the log began."""
        self._begun_at = 0
        """How many pages the log had then ..."""
        self._to_move = 0
        """... of which so many were still to be moved."""
        self._without = 0
        """Checkpoints that are done in one step, for in two they took longer."""
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
        self._finish_backfill()
        self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        if self._held and not self._refusing:
            _log.error("the write-ahead log is at its bound: writes are refused until the old snapshot is let go of")
            self._refusing = True
        return self._held

    def tidy(self, batch: int) -> bool:
        """Do the step that is due, if one is, after a batch of so many writes; 0: nobody writes. True if another one follows."""
        backfill = self._backfill
        if backfill is not None and backfill.under_way:
            return True
        due = CHECKPOINT_PAGES if batch < BUSY_BATCH else BUSY_PAGES
        if not self._rounds and self._pages < due:
            return False
        if backfill is not None and not self._is_too_early() and self._is_worth_a_round():
            backfill.finish()
            backfill.begin()
            self._rounds += 1
            self._to_move, self._begun_at = self._pages - self._begun_at, self._pages
            return True
        if self._without:
            self._without -= 1
        self._finish_backfill()
        self._checkpoint(apsw.SQLITE_CHECKPOINT_PASSIVE)
        return False

    def empty(self) -> None:
        """Move whatever is there, and cut the file."""
        self._finish_backfill()
        self._checkpoint(apsw.SQLITE_CHECKPOINT_TRUNCATE)

    def close(self) -> None:
        if self._backfill is not None:
            self._backfill.close()

    def _finish_backfill(self) -> None:
        if self._backfill is not None:
            self._backfill.finish()
        self._rounds = self._begun_at = 0

    def _is_worth_a_round(self) -> bool:
        """Whether to do the first step now. It's no use on a disk so slow that the writer adds nearly as much meanwhile: the
        second step would be the longer for it."""
        if self._without:
            return False
        added = self._pages - self._begun_at
        if self._rounds and added > self._to_move // 2:
            self._without = WITHOUT
            return False
        return added >= ROUND_PAGES

    def _is_too_early(self) -> bool:
        return self._held and self._clock.monotonic() < self._next_try

    def _checkpoint(self, mode: int) -> None:
        if mode == apsw.SQLITE_CHECKPOINT_PASSIVE and self._is_too_early():
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
