"""One reading connection: some reads after another, in one transaction.

A read of conversations needs one committed snapshot for all its statements, and of what isn't in the tables yet the part of
the users whom it is about, as of the same moment (`young.py`). To begin and end that costs as much as a small read itself, so
those that waited at the same time share it.

No snapshot lives longer than `TOGETHER_SECONDS` and one read, `READ_SECONDS`: the log can't be emptied past it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import apsw

from duologue.domain.errors import Code, Refusal, StoreFailed
from duologue.domain.ports import Clock
from duologue.store.sqlite.young import Known, KnownByUser, Young

READ_SECONDS: Final = 5.0
"""A read that takes longer is interrupted, so that it neither keeps others waiting nor pins the log."""

TOGETHER_SECONDS: Final = 0.005
"""After so long no further read is begun in the same transaction: the answers leave together, so the first waits for the last."""

COPIED_TOGETHER: Final = 500
"""Users and young conversations of theirs of which what is known is copied for several reads at once, for the writer waits
meanwhile. One read alone may be about more."""

_CHECK_EVERY: Final = 20_000
"""Instructions of SQLite's machine (about a millisecond) between two looks at the clock."""

_SNAPSHOT: Final = "SELECT value FROM meta LIMIT 1"
"""BEGIN alone doesn't: the snapshot is taken by the first read."""

_log = logging.getLogger(__name__)


class Read:
    """A question, and who waits for its answer. `users`: whom it's about; None if it's one statement, of what is always in
    its table."""

    __slots__ = ("answer", "ask", "error", "future", "name", "users")

    def __init__(
        self,
        name: str,
        users: Sequence[str] | None,
        ask: Callable[[apsw.Connection, KnownByUser], object],
        future: asyncio.Future[Any],
    ) -> None:
        self.name = name
        self.users = users
        self.ask = ask
        self.future = future
        self.answer: object = None
        self.error: BaseException | None = None

    def settle(self) -> None:
        """Tell whoever waits, if they still do. On the loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.answer)


class Reader:
    """Used by one thread at a time."""

    def __init__(self, connection: apsw.Connection, young: Young, clock: Clock) -> None:
        self._connection = connection
        self._young = young
        self._clock = clock
        self._deadline = math.inf
        connection.set_progress_handler(self._is_late, _CHECK_EVERY)

    def read(self, reads: Sequence[Read]) -> int:
        """Answer them in turn, each by itself or by its error; how many of them before the time was over or the transaction
        was, but at least one."""
        self._end_any()
        until = self._clock.monotonic() + TOGETHER_SECONDS
        known: KnownByUser | None = None
        done = 0
        try:
            for read in reads:
                if done and (self._clock.monotonic() > until or not self._goes_on(known, read)):
                    break
                done += 1
                if read.future.done():
                    continue
                self._deadline = self._clock.monotonic() + READ_SECONDS
                try:
                    if read.users is not None and known is None:
                        known = self._begin(reads[done - 1 :])
                        until = self._clock.monotonic() + TOGETHER_SECONDS  # to copy takes as long for one as for all
                    read.answer = read.ask(self._connection, known or {})
                except BaseException as error:
                    read.error = _explained(error, read.name)
        finally:
            self._deadline = math.inf
            self._end(reads[:done])
        return done

    def close(self) -> None:
        self._connection.close(True)

    def _begin(self, reads: Sequence[Read]) -> KnownByUser:
        """Take the snapshot, and copy what is young of the first read's users and of as many others' as may be."""
        connection, young = self._connection, self._young
        self._end_any()
        connection.execute("BEGIN")
        known: dict[str, Mapping[str, Known]] = {}
        copied = 0
        with young.lock:
            connection.execute(_SNAPSHOT).fetchall()
            for read in reads:
                if copied >= COPIED_TOGETHER:
                    break
                for user in read.users or ():
                    if user not in known:
                        known[user] = young.of(user)
                        copied += 1 + len(known[user])
        return known

    def _goes_on(self, known: KnownByUser | None, read: Read) -> bool:
        """Whether the read can be answered from this snapshot: an error of the disk or of memory ends a transaction."""
        if known is None or read.users is None:
            return True
        return self._connection.in_transaction and all(user in known for user in read.users)

    def _end_any(self) -> None:
        """A transaction that couldn't be ended, or not be begun in full, is of another moment."""
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def _end(self, reads: Sequence[Read]) -> None:
        if not self._connection.in_transaction:
            return
        try:
            self._connection.execute("COMMIT")
        except apsw.Error as error:
            for read in reads:
                read.error = _explained(error, read.name)

    def _is_late(self) -> bool:
        return self._clock.monotonic() > self._deadline


def _explained(error: BaseException, name: str) -> BaseException:
    """What is told to whoever asked. No statement stays half done by it, for that would keep its snapshot until the cycle
    collector comes; nor does a refusal, which anybody can bring about, keep the other answers."""
    traceback.clear_frames(error.__traceback__)
    if isinstance(error, Refusal):
        return error.with_traceback(None)
    if isinstance(error, StopIteration):
        return RuntimeError(
            f"{name} raised StopIteration"
        )  # which no future takes: whoever asked would wait for nothing
    if isinstance(error, apsw.InterruptError):
        _log.warning("a read was interrupted after %.0f s: %s", READ_SECONDS, name)
        return Refusal(Code.UNAVAILABLE, "the read took too long")
    if isinstance(error, apsw.BusyError | apsw.LockedError | apsw.FullError):
        return Refusal(Code.UNAVAILABLE, str(error))
    if isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.IOError):
        return StoreFailed(f"reading the database failed: {error}")
    return error
