"""Readers see the tables and what is in memory as of one moment, whatever moves from the one to the other meanwhile."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import deque

import apsw
import pytest

from duologue.domain.model import User
from duologue.domain.ports import Pending, PendingMessage
from duologue.store import committer
from duologue.store.sqlite import SqliteStore, chunks, filing, writer

from .conftest import Bench
from .reference import Reference, some_two

PEOPLE = [User(f"{number:016x}", f"user {number}") for number in range(6)]
WRITES = 6_000


class Tardy:
    """A lock that is taken a little late: what must be held for two steps together lets others come between them if it isn't."""

    def __init__(self, rng: random.Random) -> None:
        self._lock = threading.Lock()
        self._rng = rng

    def __enter__(self) -> None:
        time.sleep(self._rng.random() ** 4 * 0.001)
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class Crowd:
    """Writes without a pause, as fast as the store takes it, and checks what everybody reads in the meantime."""

    def __init__(self, bench: Bench, rng: random.Random) -> None:
        self.bench = bench
        self.rng = rng
        self.reference = Reference()
        self.taken = 0
        self.writing = True
        self.checks: deque[tuple[object, ...]] = deque()
        self.reads = 0

    def catch_up(self) -> None:
        """With what the sink has been given by now."""
        self.reference.take(self.bench.returned[self.taken :])
        self.taken = len(self.bench.returned)

    def some(self, number: int) -> Pending:
        rng = self.rng
        one, other = some_two(rng, PEOPLE)
        if rng.random() < 0.3:
            return self.reference.some_receipt(rng, one, other)
        if rng.random() < 0.1 and self.bench.returned:
            known = rng.choice(self.bench.returned)
            if isinstance(known, PendingMessage):
                return PendingMessage(known.sender, known.recipient, known.id, known.content, None)
        return PendingMessage(one.id, other.id, f"id {number}", "x" * rng.choice((1, 30, 30, 500)) + str(number), None)

    async def write(self) -> None:
        number = 0
        while number < WRITES:
            batch = [self.some(number + n) for n in range(self.rng.choice((1, 5, 60)))]
            number += len(batch)
            await self.bench.commit(*batch)
            self.catch_up()
            if self.rng.random() < 0.02:
                await asyncio.sleep(0.003)  # long enough for leisure
        self.writing = False

    async def follow(self, me: User) -> None:
        """As a client that comes back again and again with the cursor of the time before."""
        rng, store, reference = self.rng, self.bench.store, self.reference
        since: int | None = None
        while self.writing:
            size, each, total = rng.choice((1, 2, 9)), rng.choice((1, 3, 40, 10**6)), rng.choice((1, 5, 50, 10**6))
            least = reference.version(me.id)
            before: int | None = None
            first: int | None = None
            while first is None or before is not None:
                page = await store.sync(me.id, since, before, size, each, total)
                self.checks.append((reference.check_sync, page, me.id, since, before, size, each, total))
                assert page.version >= least
                first = page.version if first is None else first
                before = page.next
            since = first if rng.random() < 0.9 else rng.randint(0, first)

    async def look(self, me: User) -> None:
        """Elsewhere than at the end."""
        rng, store, reference = self.rng, self.bench.store, self.reference
        while self.writing:
            peer = rng.choice(PEOPLE)
            least, limit = reference.end(me.id, peer.id), rng.choice((1, 7, 50, 1000))
            cursor = rng.randint(0, least + 1)
            before, after = rng.choice(((None, None), (cursor, None), (None, cursor)))
            history = await store.history(me.id, peer.id, before, after, limit)
            self.checks.append((reference.check_history, history, me.id, peer.id, before, after, limit, least))
            version, each, total = reference.version(me.id), rng.choice((1, 9)), rng.choice((0, 3, 100))
            roster = await store.roster(me.id, 100, 100, each, total)
            assert roster.version >= version
            self.checks.append((reference.check_roster, roster, me.id, each, total))
            version = reference.version(me.id)
            assert (await store.versions([me.id]))[me.id] >= version

    def check(self) -> None:
        self.catch_up()
        self.reads += len(self.checks)
        while self.checks:
            check, *arguments = self.checks.popleft()
            check(*arguments)  # type: ignore[operator]


@pytest.mark.asyncio
@pytest.mark.parametrize("failing", [0.0, 0.05])
async def test_every_page_is_of_one_moment(
    bench: Bench, rng: random.Random, monkeypatch: pytest.MonkeyPatch, failing: float
) -> None:
    """Also while statements of the writer fail, with that probability."""
    monkeypatch.setattr(filing, "RIPE", 100)
    monkeypatch.setattr(filing, "PORTION", 2_000)
    monkeypatch.setattr(committer, "LEISURE", 0.001)
    monkeypatch.setattr(writer, "RETRY_FILING", 0.0)
    store = await bench.open()
    assert isinstance(store, SqliteStore)
    # Most of what a batch needs was evicted, and much of that is in memory only.
    store._writer._ledger._max_accounts = 3
    store._writer._ledger._max_heads = 4
    await bench.people(*PEOPLE)
    crowd = Crowd(bench, rng)
    store._writer._young.lock = Tardy(rng)  # type: ignore[assignment]
    chance = random.Random(rng.random())

    def step(_cursor: object, statement: str, _bindings: object) -> bool:
        if statement != "ROLLBACK" and "'FULL'" not in statement and chance.random() < failing:
            raise apsw.BusyError("made up")
        return True

    store._writer._connection.exec_trace = step
    async with asyncio.TaskGroup() as tasks:
        for me in PEOPLE:
            tasks.create_task(crowd.follow(me))
            tasks.create_task(crowd.look(me))
        tasks.create_task(crowd.write())
    crowd.check()
    print(crowd.reads, "pages")
    assert bench.failures == []
    assert ({each.failure for each in bench.returned} != {None}) == bool(failing)
    failing = 0.0
    await bench.close()
    await bench.open()
    for me in PEOPLE:
        for since in range(0, crowd.reference.version(me.id) + 1, 97):
            page = await bench.store.sync(me.id, since, None, 9, 20, 50)
            crowd.reference.check_sync(page, me.id, since, None, 9, 20, 50)


@pytest.mark.asyncio
@pytest.mark.parametrize("leisure", [0.0, 60.0])
async def test_every_cursor(bench: Bench, rng: random.Random, monkeypatch: pytest.MonkeyPatch, leisure: float) -> None:
    """Each cursor of each person, in chunks of odd sizes: all of it in the tables, and some of it in memory."""
    monkeypatch.setattr(chunks, "CHUNK_MESSAGES", rng.randint(1, 9))
    monkeypatch.setattr(filing, "RIPE", rng.choice((1, 30, 150)))
    monkeypatch.setattr(committer, "LEISURE", leisure)
    await bench.open()
    await bench.people(*PEOPLE)
    crowd = Crowd(bench, rng)
    for number in range(0, 400, 10):
        await bench.commit(*(crowd.some(number + n) for n in range(rng.randint(1, 10))))
        crowd.catch_up()
    for me in PEOPLE:
        for since in range(crowd.reference.version(me.id) + 2):
            for before in (None, rng.randint(0, crowd.reference.version(me.id) + 2)):
                size, each, total = rng.choice((1, 2, 9)), rng.choice((1, 3, 40)), rng.choice((1, 5, 500))
                page = await bench.store.sync(me.id, since, before, size, each, total)
                crowd.reference.check_sync(page, me.id, since, before, size, each, total)
        for peer in PEOPLE:
            end = crowd.reference.end(me.id, peer.id)
            for cursor in range(0, end + 2, 3):
                for before, after in ((cursor, None), (None, cursor)):
                    history = await bench.store.history(me.id, peer.id, before, after, 4)
                    crowd.reference.check_history(history, me.id, peer.id, before, after, 4, end)
