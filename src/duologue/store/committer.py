"""Group commit: many small writes, one transaction, one sync to disk.

What the event loop submits gathers in a queue while the writer thread commits the batch before it; the thread then
takes all that has gathered. So the batches grow with the load and with the disk's latency, without a timer, and a
message costs neither a future nor a task nor a callback of its own: a whole batch comes back to the loop at once.

Nothing here knows an engine. An `Engine` turns one batch into one durable transaction.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from duologue.domain.errors import Code, Refusal, StoreFailed
from duologue.domain.ports import Pending, Sink
from duologue.store.work import OneOff, Work

MAX_PENDING = 50_000
"""Accepted writes that wait for a batch, at most; the next one is refused as overloaded."""

MAX_WAIT = 0.4
"""Seconds that an accepted write should wait for its batch at most. What the present speed wouldn't carry away in that time
is refused as overloaded: under twice the load that it can carry a server that queues ends up answering nobody in time."""

RETRY_AFTER = (0.5, 1.5)
"""Seconds after which to try again, somewhere in between: or those who were refused together would come back together."""

HINTS = 64
"""Different ones of them. Each has a refusal that is made once and given out again and again, in no order that anybody
would notice, so that whoever answers it can keep its text as well."""

SMOOTHING = 4
"""Batches whose speed counts: one that had to wait for the disk doesn't turn anybody away."""

MIN_BATCHES = 2
"""Full batches that may wait however slow the disk is: one to gather while the other is committed."""

MAX_BATCH = 1_000
"""Writes of one transaction. Beyond this a row gets no cheaper, but everybody in the batch waits longer."""

NICE = 1
"""Of the writer's thread: where it shares a core with the loop, the loop comes first. What would wait too long has to be
refused, and for that the loop needs the time (docs/decisions/overload.md)."""

STAND_STILL = 0.02
"""Seconds that the loop leaves to the writer after a turn in which it refused for want of speed. Else it would run as soon as
anything comes, and read, refuse and answer a few at a time, each at several times the price (docs/decisions/overload.md)."""

WRITER_THREAD = "duologue-writer"

LEISURE = 0.05
"""Seconds without any write after which the engine does what can wait."""

ONE_OFF_TIMEOUT = 10.0
"""Seconds that a one-off write may take, its wait in the queue included."""

CLOSE_TIMEOUT = 30.0
"""Seconds that the writer thread has to commit what is left and to release its files."""

_log = logging.getLogger(__name__)


class Engine(Protocol):
    """One database as the committer sees it. Every method runs on the writer thread."""

    def write(self, batch: Sequence[Work]) -> None:
        """Make the batch durable, all in one transaction, and fill in what became of each item. An error that may pass
        is noted in each item's `failure`; what is raised is fatal, and then nothing of the batch is acknowledged."""
        ...

    def rest(self, size: int) -> None:
        """Housekeeping after a batch of that size, when its results are on their way. What it raises is fatal."""
        ...

    def leisure(self) -> float | None:
        """Housekeeping when nothing was submitted for `LEISURE` seconds, in portions. Returns the seconds until the next one
        is due, 0 for at once, or None if nothing is left. What it raises is fatal."""
        ...

    def close(self) -> None:
        """Release the connection. Called once, also after a fatal error; after one it must not pretend a clean end."""
        ...


class Committer:
    """Owns the queue and the writer thread. All public methods belong to the event loop's thread.

    `on_failure` is called on the loop, exactly once, when the engine failed for good; what was accepted and not yet
    committed then comes back as UNAVAILABLE, and further submits are refused with that code.
    """

    def __init__(
        self,
        engine: Engine,
        loop: asyncio.AbstractEventLoop,
        sink: Sink,
        on_failure: Callable[[BaseException], None],
        max_pending: int = MAX_PENDING,
        max_batch: int = MAX_BATCH,
    ) -> None:
        self._engine = engine
        self._loop = loop
        self._sink = sink
        self._on_failure = on_failure
        self._max_pending = max_pending
        self._max_batch = max_batch
        self._limit = max_pending
        """Writes that may wait, at the present speed."""
        self._speed = 0.0
        """Writes a second, of full batches; 0 before the first. Others say nothing of what could be."""
        # Appends and pops of a deque are atomic: the loop appends, the thread pops, no lock is needed.
        self._queue: deque[Work] = deque()
        self._overloaded = itertools.cycle(
            [
                Refusal(Code.OVERLOADED, "too many writes are waiting", seconds)
                for seconds in _spread(*RETRY_AFTER, HINTS)
            ]
        )
        self._bell = threading.Event()
        self._ringing = False
        self._standing_still = False
        self._open = True
        self._failed = False
        self._ended: asyncio.Future[None] = loop.create_future()
        self._thread = threading.Thread(target=self._work, name=WRITER_THREAD, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def refusal(self) -> Refusal | None:
        """What `submit` would refuse a write with now: OVERLOADED when too many wait, UNAVAILABLE after close or failure.
        After OVERLOADED the loop stands still for `STAND_STILL` once."""
        if len(self._queue) >= self._limit:
            if not self._standing_still:
                self._standing_still = True
                # A turn later than the answers of this one, which leave at its end.
                self._loop.call_soon(self._loop.call_soon, self._stand_still)
            return next(self._overloaded)
        return None if self._open else Refusal(Code.UNAVAILABLE, "the store is closed")

    def submit(self, work: Work) -> None:
        """Queue a write. Raises `Refusal`, as `refusal` says."""
        queue = self._queue
        if len(queue) >= self._limit or not self._open:
            refusal = self.refusal()
            if refusal is not None:
                # Another one, for an exception that is raised again and again keeps every way it went.
                raise Refusal(refusal.code, refusal.detail, refusal.retry_after)
        queue.append(work)
        if not self._ringing:
            # The bell waits for the end of this turn of the loop: what other sockets send in it joins the batch.
            self._ringing = True
            self._loop.call_soon(self._ring)

    async def run(self, work: OneOff) -> None:
        """Commit a one-off write and return once it is durable. Raises `Refusal` with its failure, or UNAVAILABLE if
        it took too long (then it may yet be committed)."""
        self.submit(work)
        try:
            # Shielded: a caller who goes away takes neither the write nor the future with them.
            # Not by wait_for: up to Python 3.11 it may swallow a cancellation.
            async with asyncio.timeout(ONE_OFF_TIMEOUT):
                await asyncio.shield(work.future)
        except TimeoutError:
            raise Refusal(Code.UNAVAILABLE, "the write took too long") from None

    def fail(self, error: BaseException) -> None:
        """Refuse all further work and report `error`, unless something was reported before."""
        self._open = False
        if not self._failed:
            self._failed = True
            _log.critical("the store failed; nothing more is acknowledged: %s", error)
            self._on_failure(error)

    async def close(self) -> None:
        """Commit what was submitted, hand it to the sink and end the thread. Safe to call twice."""
        self._open = False
        self._bell.set()
        await asyncio.wait_for(asyncio.shield(self._ended), CLOSE_TIMEOUT)
        self._thread.join(CLOSE_TIMEOUT)

    def _ring(self) -> None:
        self._ringing = False
        self._bell.set()

    def _stand_still(self) -> None:
        self._standing_still = False
        time.sleep(STAND_STILL)

    # The writer thread.

    def _work(self) -> None:
        yield_to_the_loop()
        error: BaseException | None = None
        batch: list[Work] = []
        patience: float | None = LEISURE
        """Seconds to wait before the engine is given leisure; None if it has nothing to do with it."""
        began = time.monotonic()
        try:
            while not self._failed:
                batch = self._take()
                if batch:
                    self._engine.write(batch)
                    size = len(batch)
                    self._post(self._deliver, batch)
                    batch = []
                    self._engine.rest(size)
                    before, began = began, time.monotonic()
                    if size == self._max_batch:
                        self._adapt(began - before)
                    patience = LEISURE
                elif self._open:
                    if self._bell.wait(patience):
                        self._bell.clear()
                    else:
                        patience = self._engine.leisure()
                    began = time.monotonic()
                else:
                    break
        except BaseException as raised:
            error = raised
            self._post(self._report, error)  # to close may take as long as the disk does
        try:
            self._engine.close()
        except BaseException as raised:
            if error is None:
                self._post(self._report, raised)
        self._post(self._end, batch)

    def _take(self) -> list[Work]:
        queue = self._queue
        return [queue.popleft() for _ in range(min(len(queue), self._max_batch))]

    def _adapt(self, seconds: float) -> None:
        """A full batch took so long, from the end of the one before it."""
        speed = self._max_batch / max(seconds, 1e-6)
        self._speed += (speed - self._speed) / (SMOOTHING if self._speed else 1)
        enough = max(MIN_BATCHES * self._max_batch, int(self._speed * MAX_WAIT))
        self._limit = min(self._max_pending, enough)

    def _post(self, call: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(call, *arguments)
        except RuntimeError:
            # The loop was closed over our head: nobody is left to acknowledge to, and what is committed stays so.
            _log.error("the event loop ended before the store was closed")
            self._failed = True

    # Back on the loop.

    def _deliver(self, batch: list[Work]) -> None:
        if self._failed:
            # Committed, but after the failure was announced: nobody may be told that all is well.
            _refuse(batch)
        pendings: list[Pending] = [work for work in batch if not isinstance(work, OneOff)]
        if pendings:
            try:
                self._sink(pendings)
            except Exception as error:
                _log.exception("the sink of the committer raised")
                self.fail(error)
        if len(pendings) < len(batch):
            for work in batch:
                if isinstance(work, OneOff) and not work.future.done():
                    if work.failure is None:
                        work.future.set_result(None)
                    else:
                        work.future.set_exception(Refusal(work.failure))
                        work.future.exception()  # whoever timed out has gone; their refusal isn't news

    def _report(self, error: BaseException) -> None:
        failure = error if isinstance(error, StoreFailed) else StoreFailed(f"{type(error).__name__}: {error}")
        if failure is not error:
            failure.__cause__ = error
            _log.error("the writer thread raised", exc_info=error)
        self.fail(failure)

    def _end(self, batch: list[Work]) -> None:
        left = [*batch, *self._queue]
        self._queue.clear()
        if left:
            _refuse(left)
            self._deliver(left)
        if not self._ended.done():
            self._ended.set_result(None)


def yield_to_the_loop() -> None:
    """Lower the calling thread's priority to `NICE`, unless the process has been given a lower one already."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, max(NICE, os.getpriority(os.PRIO_PROCESS, thread)))


def _spread(least: float, most: float, count: int) -> list[float]:
    """Some values from the one to the other, as far apart as they can be, in an order of chance."""
    return random.sample([least + (most - least) * place / (count - 1) for place in range(count)], count)


def _refuse(batch: list[Work]) -> None:
    for work in batch:
        work.failure = Code.UNAVAILABLE
