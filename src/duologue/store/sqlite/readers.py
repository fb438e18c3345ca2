"""A few reading connections, each used by one thread at a time, with every read bounded in time.

A read is a function of a connection that sees one committed snapshot, either because it's one statement or by a transaction
around all of them. It never keeps that snapshot longer than `READ_SECONDS`, for the log can't be emptied past it. Of what isn't
in the tables yet it is given the part of the users whom it is about, as of the same moment (`young.py`).

Every step of a statement lets go of the interpreter's lock and has to get it back from the loop: none is taken without need.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Concatenate, ParamSpec, TypeVar

import apsw

from duologue.domain.errors import Code, Refusal, StoreFailed
from duologue.domain.ports import Clock
from duologue.store.sqlite.young import Known, Young

READERS = 2
"""Reading connections and their threads."""

MAX_WAITING = 5_000
"""Reads that wait or run; the next one is refused. A herd of reconnecting clients fits, see F13."""

READ_SECONDS = 5.0
"""A read that takes longer is interrupted, so that it neither keeps others waiting nor pins the log."""

WAIT_SECONDS = 15.0
"""A caller waits no longer than this for a read, its time in the queue included."""

_CHECK_EVERY = 20_000
"""Instructions of SQLite's machine (about a millisecond) between two looks at the clock."""

_SNAPSHOT = "SELECT value FROM meta LIMIT 1"
"""BEGIN alone doesn't: the snapshot is taken by the first read."""

P = ParamSpec("P")
T = TypeVar("T")
_log = logging.getLogger(__name__)


class Readers:
    """The pool. `on_failure` hears, on the loop, of an error that says the database can't be read any more."""

    def __init__(
        self,
        connections: Sequence[apsw.Connection],
        young: Young,
        clock: Clock,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._young = young
        self._readers = [_Reader(connection, clock) for connection in connections]
        self._free = list(self._readers)
        self._on_failure = on_failure
        self._waiting = 0
        self._open = True
        self._threads = ThreadPoolExecutor(len(connections), thread_name_prefix="duologue-reader")

    async def run(
        self, query: Callable[Concatenate[apsw.Connection, P], T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """The answer of a query that is one statement, of what is always in its table. Raises `Refusal(UNAVAILABLE)` when
        there are too many reads or it takes too long."""
        return await self._run(query.__name__, lambda connection: query(connection, *arguments, **named))

    async def run_for(
        self,
        users: Sequence[str],
        query: Callable[Concatenate[apsw.Connection, Mapping[str, Mapping[str, Known]], P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """As `run`, of a query of conversations, of as many statements as it needs: what is young of these users' is given to
        it by the user."""

        def ask(connection: apsw.Connection) -> T:
            connection.execute("BEGIN")
            with self._young.lock:
                connection.execute(_SNAPSHOT).fetchall()
                known = {user: self._young.of(user) for user in users}
            return query(connection, known, *arguments, **named)

        return await self._run(query.__name__, ask)

    async def _run(self, name: str, ask: Callable[[apsw.Connection], T]) -> T:
        if not self._open:
            raise Refusal(Code.UNAVAILABLE, "the store is closed")
        if self._waiting >= MAX_WAITING:
            raise Refusal(Code.UNAVAILABLE, "too many reads are waiting")
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._threads, self._read, name, ask)
            async with asyncio.timeout(WAIT_SECONDS):  # not wait_for: up to Python 3.11 it may swallow a cancellation
                return await work
        except TimeoutError:
            raise Refusal(Code.UNAVAILABLE, "the read took too long") from None
        except StoreFailed as error:
            self._on_failure(error)
            raise Refusal(Code.UNAVAILABLE, "the store failed") from error
        finally:
            self._waiting -= 1

    async def close(self) -> None:
        """Finish what runs, refuse what waits, and close the connections."""
        self._open = False
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)
        for reader in self._readers:
            reader.connection.close(True)

    def _read(self, name: str, ask: Callable[[apsw.Connection], T]) -> T:
        # As many threads as connections, so there's always a free one; a list's pop and append are atomic.
        reader = self._free.pop()
        try:
            return reader.read(ask)
        except apsw.InterruptError:
            _log.warning("a read was interrupted after %.0f s: %s", READ_SECONDS, name)
            raise Refusal(Code.UNAVAILABLE, "the read took too long") from None
        except (apsw.BusyError, apsw.LockedError, apsw.FullError) as error:
            raise Refusal(Code.UNAVAILABLE, str(error)) from error
        except (apsw.CorruptError, apsw.NotADBError, apsw.IOError) as error:
            raise StoreFailed(f"reading the database failed: {error}") from error
        finally:
            self._free.append(reader)


class _Reader:
    """A connection, and until when what it reads may take."""

    def __init__(self, connection: apsw.Connection, clock: Clock) -> None:
        self.connection = connection
        self._clock = clock
        self._deadline = math.inf
        connection.set_progress_handler(self._is_late, _CHECK_EVERY)

    def read(self, ask: Callable[[apsw.Connection], T]) -> T:
        self._deadline = self._clock.monotonic() + READ_SECONDS
        try:
            return ask(self.connection)
        finally:
            self._deadline = math.inf
            if self.connection.in_transaction:
                self.connection.execute("COMMIT")

    def _is_late(self) -> bool:
        return self._clock.monotonic() > self._deadline
