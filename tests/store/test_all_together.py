"""Conversations in any state, tiny caches, statements that fail, and an end at any moment: all drawn together, against the
reference.

One thread, so that a seed says all of it. What comes between readers and a writer is in `test_two_halves.py`.
"""

from __future__ import annotations

import functools
import itertools
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import apsw
import pytest

from duologue.domain.errors import Code, StoreFailed, StoreUnusable
from duologue.domain.model import User
from duologue.domain.ports import Pending, PendingMessage, PendingReceipt
from duologue.store.migrate.sqlite import SqliteSide
from duologue.store.sqlite import chunks, filing, identities, queries, writer
from duologue.store.sqlite.young import NO_STATE
from tests.support.clock import SetClock

from .broken_disk import BrokenDisk, FailsAfter
from .one_thread import OneThread
from .reference import Reference, some_two

PEOPLE = [User(f"{number:016x}", f"user {number}") for number in range(5)]

LIVES = 12
BATCHES = 60
"""Of one life, at most."""

REFUSED = {Code.STORAGE_FULL, Code.UNAVAILABLE}
"""What a whole batch may come back with."""


class Over(Exception):
    """A life has ended, but not cleanly."""

    def __init__(self, under_way: Sequence[Pending] = ()) -> None:
        self.under_way = under_way
        """A batch of which nobody was told whether it's on disk."""


def draw_bounds(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bound that decides when something goes where, and how much of it."""
    monkeypatch.setattr(filing, "RIPE", rng.choice((1, 5, 20, 60, 300)))
    monkeypatch.setattr(filing, "RIPE_CHARACTERS", rng.choice((50, 1_000, 10_000, 10**6)))
    monkeypatch.setattr(filing, "RIPE_CHANGES", rng.choice((3, 20, 10**6)))
    monkeypatch.setattr(filing, "MOST", rng.choice((2, 4, 100)))
    monkeypatch.setattr(filing, "FILED_PER_NEW", rng.choice((0, 1, 2)))
    monkeypatch.setattr(filing, "PORTION", rng.choice((1, 300, 5_000, 50_000)))
    monkeypatch.setattr(filing, "FORGOTTEN_AT_ONCE", rng.choice((1, 1_000, 200_000)))
    monkeypatch.setattr(filing, "SPREAD", rng.choice((1, 8)))
    monkeypatch.setattr(chunks, "CHUNK_MESSAGES", rng.choice((1, 2, 5, 17, 64)))
    monkeypatch.setattr(identities, "LONG", rng.choice((0, 3, 40, 10**6)))
    monkeypatch.setattr(identities, "RECENT", rng.choice((1, 2, 7, 30)))
    monkeypatch.setattr(writer, "RETRY_FILING", 0.0)


@dataclass
class Faults:
    """What happens before a statement of the writer, or at a write to the disk."""

    rng: random.Random
    failing: float = 0.0
    """The probability that one fails for want of space, or for another process's lock."""
    fatal: float = 0.0
    """That nothing can be trusted after it."""
    ending: float = 0.0
    """That what the disk has then is all that is left."""


class Life:
    """From a start to an end, clean or not. `returned` is what was acknowledged over all lives, in its order."""

    def __init__(
        self, folder: Path, rng: random.Random, clock: SetClock, returned: list[Pending], disk: FullNowAndThen | None
    ) -> None:
        self.folder = folder
        self.rng = rng
        self.returned = returned
        self.disk = disk
        self.faults = Faults(random.Random(rng.random()))
        self.survivor: Path | None = None
        self.reference = Reference()
        self.reference.take(returned)
        self.known = {
            (each.sender, each.recipient, each.id): each
            for each in returned
            if isinstance(each, PendingMessage) and each.failure is None and not each.duplicate
        }
        self.store = OneThread(folder, clock, None if disk is None else disk.name)
        self.store.writing.exec_trace = self._before
        ledger = self.store.writer._ledger
        ledger._max_accounts, ledger._max_heads = rng.choice((1, 2, 5, 100)), rng.choice((1, 3, 8, 100))

    def _before(self, _cursor: object, statement: str, _bindings: object) -> bool:
        faults, chance = self.faults, self.faults.rng.random
        if self.survivor is None and chance() < faults.ending:
            self.survivor = self.folder.with_name(f"{self.folder.name}-left")
            if self.disk is None:
                shutil.copytree(self.folder, self.survivor, ignore=lambda *_: ["lock", "messages.db-shm"])
            else:
                self.disk.lose_power(self.folder, self.survivor)
        if statement == "ROLLBACK":
            return True
        if chance() < faults.fatal:
            raise apsw.IOError("made up")
        if "'FULL'" not in statement and chance() < faults.failing:
            if self.store.writing.in_transaction and chance() < 0.3:
                self.store.writing.execute("ROLLBACK")  # as SQLite does by itself after some errors
            raise faults.rng.choice((apsw.FullError, apsw.BusyError))("made up")
        return True

    def some(self, number: int) -> Pending:
        rng = self.rng
        one, other = some_two(rng, PEOPLE)
        if rng.random() < 0.3:
            return self.reference.some_receipt(rng, one, other)
        if rng.random() < 0.2 and self.known:
            first = rng.choice(list(self.known.values()))
            content = first.content if rng.random() < 0.7 else "another text"
            return PendingMessage(first.sender, first.recipient, first.id, content, None)
        return PendingMessage(
            one.id, other.id, f"id {number}", "x" * rng.choice((0, 1, 30, 30, 500)) + f"é{number}", None
        )

    def live(self, numbers: Iterator[int], batches: int) -> None:
        """Raises `Over` if it ends too soon."""
        rng, faults = self.rng, self.faults
        faults.ending = rng.choice((0.0, 0.002, 0.01))
        faults.fatal = rng.choice((0.0, 0.0, 0.002))
        again: list[Pending] = []
        for _ in range(batches):
            faults.failing = rng.choice((0, 0, 0.02, 0.1, 0.5))
            if self.disk is not None:
                self.disk.full = rng.choice((0, 0, 0, 0.02, 0.2))
            batch = again + [self.some(next(numbers)) for _ in range(rng.choice((1, 3, 20)))]
            if rng.random() < 0.2:
                batch += [self.copy(each) for each in rng.sample(batch, min(3, len(batch)))]
            asked = [(each.received, each.read) if isinstance(each, PendingReceipt) else (0, 0) for each in batch]
            self.run(functools.partial(self.store.writer.write, batch), batch)
            self.acknowledge(batch, asked)
            again = [self.copy(each) for each in batch if each.failure in REFUSED]
            self.run(functools.partial(self.keep_house, len(batch)))
            self.check_memory()
            self.check_some_pages()
        faults.fatal = faults.ending = 0.0
        self.make_space()

    def run(self, work: Callable[[], None], batch: Sequence[Pending] = ()) -> None:
        try:
            work()
        except StoreFailed:
            raise Over from None  # before anything of the batch was committed
        if self.survivor is not None:
            raise Over(batch)

    def keep_house(self, size: int) -> None:
        self.store.writer.rest(size)
        if self.rng.random() < 0.2:
            for _ in range(self.rng.choice((1, 2, 100))):
                if self.store.writer.leisure() is None:
                    break

    def make_space(self) -> None:
        """Of a disk that is full while SQLite closes, a VFS in Python would be told, and nobody else."""
        if self.disk is not None:
            self.disk.full = 0.0

    def leave(self) -> None:
        """Over with it: what is left is in the folder."""
        self.make_space()
        self.store.drop()
        if self.survivor is not None:
            shutil.rmtree(self.folder)
            self.survivor.rename(self.folder)

    @staticmethod
    def copy(each: Pending) -> Pending:
        if isinstance(each, PendingMessage):
            return PendingMessage(each.sender, each.recipient, each.id, each.content, None)
        return PendingReceipt(each.user, each.peer, each.received, each.read, None)

    def acknowledge(self, batch: list[Pending], asked: list[tuple[int, int]]) -> None:
        refused = {each.failure for each in batch} & REFUSED
        assert not refused or len({each.failure for each in batch}) == 1
        for each, (received, read) in zip(batch, asked, strict=True):
            if isinstance(each, PendingReceipt):
                if refused:
                    assert (each.received, each.read, each.user_version) == (received, read, 0)
                    continue
                end = self.reference.end(each.user, each.peer)
                before = self.reference._positions[each.user, each.peer]
                new_read = max(before[1], read if read <= end else 0)
                after = (max(before[0], new_read, received if received <= end else 0), new_read)
                assert (each.received, each.read) == after
                assert bool(each.user_version) == (after != before)
            elif not refused:
                key = each.sender, each.recipient, each.id
                first = self.known.setdefault(key, each)
                if first.content != each.content:
                    assert each.failure is Code.CONFLICT
                else:
                    assert each.failure is None
                    assert each.duplicate == (first is not each)
                    assert numbers_of(each) == numbers_of(first)
            self.reference.take([each])
            self.returned.append(each)

    def check_memory(self) -> None:
        """What is counted of it is what is in it, and no conversation is in it twice."""
        young = self.store.young
        conversations = young.conversations.values()
        assert young.messages == sum(len(each.rows) for each in conversations)
        assert young.characters == sum(len(row.content) for each in conversations for row in each.rows)
        assert young.changes == sum(each.changes for each in conversations)
        # (Of two messages with one identity the first may be in the table by now: then it's found there.)
        assert young.identities <= {identity for each in conversations for identity in each.identities}
        assert {(user, peer) for user, peers in young._of_user.items() for peer in peers} == {
            sides for each in conversations for sides in ((each.low_id, each.high_id), (each.high_id, each.low_id))
        }
        ledger = self.store.writer._ledger
        assert len(ledger._heads) <= ledger._max_heads
        assert len(ledger._accounts) <= ledger._max_accounts
        for pair, head in ledger._heads.items():
            assert head.added is None
            if (of_memory := young.find(*pair)) is not None:
                assert head is of_memory
                assert head.current() == head.state
            else:
                # One of very many, and for a long time.
                assert not head.changes
                assert not any((head.rows, head.identities, head.fresh))
                assert head.state is NO_STATE
                assert not head.low_id + head.high_id

    def check_some_pages(self) -> None:
        rng, reference = self.rng, self.reference
        me, peer = rng.choice(PEOPLE), rng.choice(PEOPLE)
        version = reference.version(me.id)
        assert self.store.ask(me.id, queries.versions, [me.id])[me.id] == version
        since = rng.choice((None, rng.randint(0, version), max(0, version - rng.randrange(5))))
        before = rng.choice((None, rng.randint(0, version + 1)))
        size, each, total = rng.choice((1, 2, 9)), rng.choice((1, 3, 40, 10**6)), rng.choice((1, 5, 50, 10**6))
        page = self.store.ask(me.id, queries.sync, me.id, since, before, size, each, total)
        assert page.version == version
        reference.check_sync(page, me.id, since, before, size, each, total)
        end, limit = reference.end(me.id, peer.id), rng.choice((1, 7, 50))
        before, after = rng.choice(((None, None), (rng.randint(0, end + 1), None), (None, rng.randint(0, end))))
        history = self.store.ask(me.id, queries.history, me.id, peer.id, before, after, limit)
        reference.check_history(history, me.id, peer.id, before, after, limit, end)

    def is_ahead(self) -> bool:
        """Whether more is on disk than what the reference knows."""
        return any(
            self.store.ask(me.id, queries.versions, [me.id])[me.id] > self.reference.version(me.id) for me in PEOPLE
        )

    def check_all(self) -> None:
        reference = self.reference
        for me in PEOPLE:
            page = self.store.ask(me.id, queries.sync, me.id, None, None, 9, 10**6, 10**6)
            assert page.version == reference.version(me.id)
            reference.check_sync(page, me.id, None, None, 9, 10**6, 10**6)
            roster = self.store.ask(me.id, queries.roster, me.id, 100, 100, 10**6, 10**6)
            reference.check_roster(roster, me.id, 10**6, 10**6)


def few_identities(rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of which many messages have the same, or none."""
    mask = rng.choice((2**chunks.SEQ_BITS - 1, 3))
    whole = identities.Identities.of
    monkeypatch.setattr(
        identities.Identities,
        "of",
        lambda self, conversation, low, rows: tuple(
            conversation << chunks.SEQ_BITS | identity & mask for identity in whole(self, conversation, low, rows)
        ),
    )


def numbers_of(message: PendingMessage) -> tuple[int, ...]:
    return message.seq, message.rev, message.at, message.sender_version, message.recipient_version


def opened(
    folder: Path, rng: random.Random, clock: SetClock, returned: list[Pending], disk: FullNowAndThen | None
) -> Life:
    """After some starts that fail, each of another disk that breaks after a few writes."""
    while rng.random() < 0.3:
        breaking = FailsAfter(rng.randrange(1, 40))
        try:
            OneThread(folder, clock, breaking.name).drop()
        except (StoreUnusable, apsw.Error):
            pass
        finally:
            breaking.unregister()
    return Life(folder, rng, clock, returned, disk)


class FullNowAndThen(BrokenDisk):
    def __init__(self, seed: float) -> None:
        super().__init__()
        self.full = 0.0
        """The probability that there's no space for a write."""
        self._rng = random.Random(seed)

    def check(self, operation: str) -> None:
        if operation == "write" and self._rng.random() < self.full:
            raise apsw.FullError("made up")


async def check_migration(folder: Path, reference: Reference, *, clean: bool) -> None:
    """A folder that nobody serves is read for a migration as it should be, or not at all."""
    if not clean:
        try:
            side = SqliteSide.source(folder)
        except StoreUnusable:
            return
    else:
        side = SqliteSide.source(folder)
    try:
        messages, _ = await side.read("message", None, 10**6)
        assert sorted((row[0], row[1], row[2], row[5]) for row in messages) == sorted(
            (*sorted((each.sender, each.recipient)), each.seq, each.id)
            for held in reference.messages.values()
            for each in held
        )
        dialogs, _ = await side.read("dialog", None, 10**6)
        assert sorted((row[0], row[1], row[2], tuple(row[4:6]), tuple(row[6:8]), row[8]) for row in dialogs) == sorted(
            (me.id, change.peer, change.seq, change.mine, change.theirs, change.version)
            for me in PEOPLE
            for change in reference.at(me.id, reference.version(me.id))
        )
    finally:
        await side.close()


@pytest.mark.asyncio
@pytest.mark.parametrize("power", [False, True])
async def test_lives_of_a_store(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch, power: bool
) -> None:
    few_identities(rng, monkeypatch)
    clock = SetClock()
    returned: list[Pending] = []
    numbers = itertools.count()
    folder = tmp_path / "data"
    first = OneThread(folder, clock)
    first.add(*PEOPLE)
    first.close()
    under_way: Sequence[Pending] = ()
    for _ in range(LIVES):
        draw_bounds(rng, monkeypatch)
        disk = FullNowAndThen(rng.random()) if power else None
        life = opened(folder, rng, clock, returned, disk)
        if under_way and life.is_ahead():
            # All of the batch, then.
            returned += under_way
            life.store.drop()
            life = Life(folder, rng, clock, returned, disk)
        clock.wall += 1
        life.check_all()
        under_way, clean = (), False
        try:
            life.live(numbers, rng.randrange(BATCHES))
        except Over as over:
            under_way = over.under_way
            life.leave()
        else:
            life.check_all()
            life.faults.failing = rng.choice((0.0, 0.3))
            life.store.close()
            clean = not life.faults.failing
        if not under_way:
            await check_migration(folder, life.reference, clean=clean)
        if disk is not None:
            disk.unregister()
    print(len(returned), "returned")
