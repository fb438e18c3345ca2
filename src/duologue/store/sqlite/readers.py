"""A few reading connections and their threads, and the line before them.

While all are busy, reads wait, and whichever reader is free next takes its share of those that wait, up to `MAX_TOGETHER` at
once (`reader.py`): nobody waits for company, and the more there is to do the less each costs.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from queue import Empty, SimpleQueue
from typing import Concatenate, Final, ParamSpec, TypeVar

import apsw

from duologue.domain.errors import Code, Refusal, StoreFailed
from duologue.domain.ports import Clock
from duologue.store.sqlite.reader import Read, Reader
from duologue.store.sqlite.young import KnownByUser, Young

READERS: Final = 2
"""Reading connections and their threads."""

MAX_TOGETHER: Final = 16
"""Reads in one transaction."""

MAX_WAITING: Final = 5_000
"""Reads in the line, also those for which nobody waits any more; the next one is refused. A herd of reconnecting clients fits,
see F13."""

WAIT_SECONDS: Final = 15.0
"""A caller waits no longer than this for a read, its time in the line included."""

P = ParamSpec("P")
T = TypeVar("T")


class Readers:
    """The pool. All public methods belong to the loop, and so does `on_failure`: it hears of an error that says the database
    can't be read any more."""

    def __init__(
        self,
        connections: Sequence[apsw.Connection],
        young: Young,
        clock: Clock,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._readers = [Reader(connection, young, clock) for connection in connections]
        self._on_failure = on_failure
        self._line: SimpleQueue[Read | None] = SimpleQueue()
        """`None` is for a thread that takes it: the end."""
        self._unanswered: OrderedDict[Read, float] = OrderedDict()
        """Until when each may wait, the one that asked first at the front."""
        self._alarm: asyncio.TimerHandle | None = None
        self._open = True
        self._loop = asyncio.get_running_loop()
        self._threads = [
            threading.Thread(target=self._work, args=(reader,), name="duologue-reader", daemon=True)
            for reader in self._readers
        ]
        for thread in self._threads:
            thread.start()

    async def run(
        self, query: Callable[Concatenate[apsw.Connection, P], T], *arguments: P.args, **named: P.kwargs
    ) -> T:
        """The answer of a query that is one statement, of what is always in its table. Raises `Refusal(UNAVAILABLE)` when
        there are too many reads or it takes too long."""
        return await self._ask(query.__name__, None, lambda connection, _: query(connection, *arguments, **named))

    async def run_for(
        self,
        users: Sequence[str],
        query: Callable[Concatenate[apsw.Connection, KnownByUser, P], T],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> T:
        """As `run`, of a query of conversations, of as many statements as it needs: what is young of these users' is given to
        it by the user, and maybe that of others."""
        return await self._ask(
            query.__name__, users, lambda connection, known: query(connection, known, *arguments, **named)
        )

    async def close(self) -> None:
        """Finish what runs, refuse what waits, and close the connections."""
        self._open = False
        while (read := _next_of(self._line)) is not None:
            self._refuse(read, "the store is closed")
        for _ in self._threads:
            self._line.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        if self._alarm is not None:
            self._alarm.cancel()
        for reader in self._readers:
            reader.close()

    async def _ask(self, name: str, users: Sequence[str] | None, ask: Callable[[apsw.Connection, KnownByUser], T]) -> T:
        if not self._open:
            raise Refusal(Code.UNAVAILABLE, "the store is closed")
        if self._line.qsize() >= MAX_WAITING:
            raise Refusal(Code.UNAVAILABLE, "too many reads are waiting")
        future: asyncio.Future[T] = self._loop.create_future()
        read = Read(name, users, ask, future)
        self._unanswered[read] = self._loop.time() + WAIT_SECONDS
        if self._alarm is None:
            self._alarm = self._loop.call_later(WAIT_SECONDS, self._give_up)
        self._line.put(read)
        try:
            return await future
        except StoreFailed as error:
            raise Refusal(Code.UNAVAILABLE, "the store failed") from error

    def _answer(self, reads: Sequence[Read]) -> None:
        for read in reads:
            if isinstance(read.error, StoreFailed):
                self._on_failure(read.error)
            read.settle()
            self._unanswered.pop(read, None)

    def _give_up(self) -> None:
        """The one timer of all who wait: refuse those who have waited for too long."""
        self._alarm = None
        while self._unanswered:
            read, deadline = next(iter(self._unanswered.items()))
            if deadline > self._loop.time():
                self._alarm = self._loop.call_at(deadline, self._give_up)
                break
            self._refuse(read, "the read took too long")

    def _refuse(self, read: Read, why: str) -> None:
        self._unanswered.pop(read, None)
        if not read.future.done():
            read.future.set_exception(Refusal(Code.UNAVAILABLE, why))

    # In a thread.

    def _work(self, reader: Reader) -> None:
        reads: Sequence[Read] = ()
        while reads := reads or self._share():
            done = len(reads)
            if self._open:
                try:
                    done = reader.read(reads)
                except BaseException as error:
                    for read in reads:
                        read.error = error
            else:
                for read in reads:
                    read.error = Refusal(Code.UNAVAILABLE, "the store is closed")
            self._loop.call_soon_threadsafe(self._answer, reads[:done])
            reads = reads[done:]

    def _share(self) -> list[Read]:
        """The next that wait, none at the end. As many others are left for each of the other readers: this one may be held
        up by any of them."""
        read = self._line.get()
        reads = []
        room = min(MAX_TOGETHER, 1 + self._line.qsize() // len(self._readers))
        while read is not None:
            reads.append(read)
            if len(reads) == room:
                break
            read = _next_of(self._line)
        return reads


def _next_of(line: SimpleQueue[Read | None]) -> Read | None:
    """None if nobody waits, or at the end."""
    try:
        read = line.get_nowait()
    except Empty:
        return None
    if read is None:
        line.put(None)  # for another one
    return read
