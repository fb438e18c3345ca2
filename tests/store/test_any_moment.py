"""Power lost, a process killed and a statement that fails, at any moment: while batches are filed, and while a start files."""

from __future__ import annotations

import asyncio
import itertools
import random
import shutil
from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import apsw
import pytest

from duologue.domain.errors import Code, Refusal, StoreFailed, StoreUnusable
from duologue.domain.model import User
from duologue.domain.ports import Pending, PendingMessage, PendingReceipt, Store
from duologue.store import committer
from duologue.store.sqlite import SqliteStore, chunked, filing, schema, writer
from duologue.store.sqlite.connection import open_writer
from duologue.store.sqlite.files import DATABASE

from .broken_disk import BrokenDisk, FailsAfter
from .conftest import Bench
from .reference import Reference

pytestmark = pytest.mark.asyncio

PEOPLE = [User(f"{number:016x}", f"user {number}") for number in range(5)]


ENOUGH = 12
"""Moments at which one test dies."""


@pytest.fixture
def disk() -> Iterator[BrokenDisk]:
    made = BrokenDisk()
    yield made
    made.unregister()


@pytest.fixture(autouse=True)
def many_sweeps(small_runs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filing, "RIPE", 60)
    monkeypatch.setattr(filing, "PORTION", 1_300)
    monkeypatch.setattr(filing, "FILED_PER_NEW", 1)
    monkeypatch.setattr(committer, "LEISURE", 0.002)


def some(rng: random.Random, number: int, known: list[Pending]) -> Pending:
    one, other = rng.choice(PEOPLE), PEOPLE[min(int(rng.expovariate(0.7)), len(PEOPLE) - 1)]
    if rng.random() < 0.3:
        return PendingReceipt(one.id, other.id, rng.randint(0, 50), rng.randint(0, 50), None)
    if rng.random() < 0.1 and known:
        first = rng.choice(known)
        if isinstance(first, PendingMessage):
            return PendingMessage(first.sender, first.recipient, first.id, first.content, None)
    return PendingMessage(one.id, other.id, f"id {number}", "x" * rng.choice((1, 30, 500)) + str(number), None)


async def check_everything(store: Store, reference: Reference) -> None:
    """Of a store whose state is that of the reference, or of an earlier moment."""
    for me in PEOPLE:
        version = (await store.versions([me.id]))[me.id]
        for since in (None, 0, version // 2, max(0, version - 3), version):
            page = await store.sync(me.id, since, None, 9, 10**6, 10**6)
            assert page.version == version
            reference.check_sync(page, me.id, since, None, 9, 10**6, 10**6)
        for peer in PEOPLE:
            history = await store.history(me.id, peer.id, None, 0, 10**6)
            reference.check_messages(history.messages, me.id, peer.id, 1, len(history.messages))


async def check_goes_on(bench: Bench, reference: Reference, acknowledged: list[Pending]) -> None:
    """What was acknowledged is there, is found again, and what comes next has the numbers that come next."""
    await check_everything(bench.store, reference)
    versions = await bench.store.versions([one.id for one in PEOPLE])
    first = [m for m in acknowledged if isinstance(m, PendingMessage) and m.failure is None]
    again = [PendingMessage(m.sender, m.recipient, m.id, m.content, None) for m in first]
    await bench.commit(*again)
    assert [(m.duplicate, m.seq, m.sender_version) for m in again] == [(True, m.seq, m.sender_version) for m in first]
    for one, other in itertools.combinations_with_replacement(PEOPLE, 2):
        end = len((await bench.store.history(one.id, other.id, None, 0, 10**6)).messages)
        sent = await bench.send(one, other, "the next one")
        assert sent.seq == end + 1
        for user in {one.id, other.id}:
            versions[user] += 1
        assert sent.sender_version == versions[one.id]


async def test_power_lost_or_killed_at_any_moment(bench: Bench, rng: random.Random, tmp_path: Path) -> None:
    disk = Dies(bench, tmp_path, rng.randrange(2**32))
    try:
        await bench.open(vfs=disk.name)
        await bench.people(*PEOPLE)
        for number in range(0, 3_000, 20):
            await bench.commit(*(some(rng, number + n, bench.returned) for n in range(rng.choice((1, 5, 20)))))
            if rng.random() < 0.1:
                await asyncio.sleep(0.005)
        await bench.close()
    finally:
        disk.unregister()
    reference = Reference()
    reference.take(bench.returned)
    assert len(disk.survivors) > 3
    for folder, acknowledged in disk.survivors:
        await check_interrupted_starts(folder, rng)
        other = Bench(folder)
        await other.open()
        await check_goes_on(other, reference, bench.returned[:acknowledged])
        await other.close()
        assert other.failures == []


class Dies(BrokenDisk):
    """Again and again before a write or a sync; what that leaves is in `survivors`, each with how many writes had returned."""

    def __init__(self, bench: Bench, survivors: Path, seed: int) -> None:
        super().__init__()
        self.survivors: list[tuple[Path, int]] = []
        self._bench = bench
        self._folder = survivors
        self._rng = random.Random(seed)

    def check(self, operation: str) -> None:
        number = len(self.survivors)
        if self._bench.returned and number < ENOUGH and self._rng.random() < 0.01:
            survivor = self._folder / f"after-{number}"
            self.copy(self._bench.folder, survivor, power_lost=number % 2 == 0)
            self.survivors.append((survivor, len(self._bench.returned)))


async def check_interrupted_starts(folder: Path, rng: random.Random) -> None:
    """Starts on it that end for want of a disk that works, and with the power."""
    for attempt in range(2):
        disk = FailsAfter(rng.randrange(1, 40))
        try:
            other = Bench(folder)
            try:
                await other.open(vfs=disk.name)
            except (StoreUnusable, apsw.IOError):  # a VFS in Python is heard of even where SQLite keeps silent
                pass
            else:
                await other.close()
            after = folder.with_name(f"{folder.name}-{attempt}")
            disk.lose_power(folder, after)
            shutil.rmtree(folder)
            after.rename(folder)
        finally:
            disk.unregister()


@pytest.mark.parametrize(
    ("kind", "error"), [("statement", apsw.FullError), ("statement", apsw.BusyError), ("write", apsw.FullError)]
)
async def test_any_step_that_fails(
    bench: Bench,
    disk: BrokenDisk,
    rng: random.Random,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    kind: str,
    error: type[apsw.Error],
) -> None:
    """What is refused can be sent again, what isn't is there, also if the power is lost meanwhile."""
    monkeypatch.setattr(writer, "RETRY_FILING", 0.0)
    store = await bench.open(vfs=disk.name)
    assert isinstance(store, SqliteStore)
    await bench.people(*PEOPLE)
    probability = 0.0
    chance = random.Random(rng.random())

    def step(_cursor: object, statement: str, _bindings: object) -> bool:
        if statement != "ROLLBACK" and "'FULL'" not in statement and chance.random() < probability:
            raise error("made up")
        return True

    def written(operation: str) -> None:
        if operation == "write" and chance.random() < probability:
            raise apsw.FullError("made up")

    if kind == "statement":
        store._writer._connection.exec_trace = step
    else:
        monkeypatch.setattr(disk, "check", written)
    again: list[Pending] = []
    refused = 0
    survivors: list[tuple[Path, int]] = []
    for number in range(0, 6_000, 20):
        probability = rng.choice((0, 0, 0.02, 0.1, 0.5)) if number < 5_000 else 0.0
        batch = again + [some(rng, number + n, bench.returned) for n in range(rng.choice((1, 5, 20)))]
        await bench.commit(*batch)
        again = [
            PendingMessage(each.sender, each.recipient, each.id, each.content, None)
            for each in batch
            if each.failure is not None and isinstance(each, PendingMessage)
        ]
        refused += len(again)
        if rng.random() < 0.05:
            await asyncio.sleep(0.005)
        if rng.random() < 0.03:
            survivor = tmp_path / f"after-{len(survivors)}"
            disk.lose_power(bench.folder, survivor)
            survivors.append((survivor, len(bench.returned)))
            reference = Reference()
            reference.take(bench.returned)
            await check_everything(store, reference)
    assert refused > 100
    assert {each.failure for each in bench.returned} == {
        None, Code.STORAGE_FULL if error is apsw.FullError else Code.UNAVAILABLE,
    }  # fmt: skip
    reference = Reference()
    reference.take(bench.returned)
    await check_everything(store, reference)
    for folder, acknowledged in survivors:
        other = Bench(folder)
        await other.open()
        await check_goes_on(other, reference, bench.returned[:acknowledged])
        await other.close()
    # (Of a disk that fails while SQLite closes, a VFS in Python would be told, and nobody else.)
    probability = rng.choice((0.0, 0.3)) if kind == "statement" else 0.0
    await bench.close()
    assert bench.failures == []
    await bench.open()
    await check_goes_on(bench, reference, bench.returned.copy())


async def test_a_batch_is_not_acknowledged_by_a_connection_that_does_not_sync(bench: Bench) -> None:
    store = await bench.open()
    assert isinstance(store, SqliteStore)
    await bench.people(*PEOPLE)

    def step(_cursor: object, statement: str, _bindings: object) -> bool:
        if statement.startswith("pragma") and "FULL" in statement:
            raise apsw.FullError("made up")
        return True

    store._writer._connection.exec_trace = step
    batch = [PendingMessage(PEOPLE[0].id, PEOPLE[1].id, f"id {number}", "x", None) for number in range(100)]
    await bench.commit(*batch)  # enough for a sweep to begin after it
    assert {each.failure for each in batch} == {None}
    with pytest.raises(Refusal, match=Code.UNAVAILABLE):
        for _ in range(50):
            await bench.send(PEOPLE[0], PEOPLE[1])
    assert bench.returned[-1].failure in (None, Code.UNAVAILABLE)
    assert [type(failure) for failure in bench.failures] == [StoreFailed]


async def test_a_folder_of_the_first_schema_whatever_interrupts_its_migration(
    bench: Bench, rng: random.Random, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunked, "_AT_ONCE", rng.choice((1, 7, 10_000)))
    await bench.open()
    await bench.people(*PEOPLE)
    for number in range(0, 1_000, 20):
        await bench.commit(*(some(rng, number + n, bench.returned) for n in range(20)))
    await bench.commit(PendingMessage(PEOPLE[0].id, PEOPLE[0].id, "long", "\U0001f469" * 200_000, None))
    await bench.close()
    reference = Reference()
    reference.take(bench.returned)
    await asyncio.to_thread(write_first_schema, tmp_path / "first", reference, monkeypatch)
    for attempt in range(4):
        folder = tmp_path / f"first-{attempt}"
        shutil.copytree(tmp_path / "first", folder)
        await check_interrupted_starts(folder, rng)
        other = Bench(folder)
        await other.open()
        await check_goes_on(other, reference, bench.returned)
        await other.close()


def write_first_schema(folder: Path, reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    files = schema._files()
    folder.mkdir()
    (folder / DATABASE).touch()
    connection = open_writer(folder / DATABASE, 1.0, "FULL")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_files", lambda: files[:1])
        schema.migrate(connection, 0, {})
    schema.write(connection, "incarnation", "of then")
    keys = {user.id: key for key, user in enumerate(reversed(PEOPLE), 1)}
    connection.executemany("INSERT INTO person VALUES (?, ?, ?, NULL)", [(keys[u.id], u.id, u.name) for u in PEOPLE])
    messages: list[tuple[Any, ...]] = [
        (
            *sorted((keys[m.sender], keys[m.recipient])), m.seq, m.rev, keys[m.sender], m.id, m.at, m.sender_version,
            m.recipient_version, m.content,
        )
        for held in reference.messages.values()
        for m in held
    ]  # fmt: skip
    messages.sort(key=itemgetter(5))
    connection.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", messages)
    for me in PEOPLE:
        for change in reference.at(me.id, reference.version(me.id)):
            row = (keys[me.id], keys[change.peer], change.seq, change.seq, *change.mine, *change.theirs, change.version)
            connection.execute("INSERT INTO dialog VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
    connection.close()
