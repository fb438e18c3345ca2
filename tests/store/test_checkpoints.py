"""The log is moved into the database beside the writer, which goes on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from duologue.domain.errors import StoreFailed
from duologue.domain.ports import PendingMessage
from duologue.store.sqlite import SqliteStore, wal
from duologue.store.sqlite.backfill import Backfill
from duologue.store.sqlite.files import DATABASE, MARK
from tests.support.clock import SetClock

from .broken_disk import BrokenDisk
from .conftest import ANN, BOB, TIMEOUT, Bench
from .one_thread import OneThread

pytestmark = pytest.mark.asyncio


class SlowDatabase(BrokenDisk):
    """A disk on which the backfill's sync of the database waits for `go_on`; what `fail` names, `sync` or `commit`, fails."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.go_on = threading.Event()

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:  # noqa: N802 - apsw's names
        return _SlowFile(self, name, flags)


class _SlowFile(apsw.VFSFile):
    def __init__(self, disk: SlowDatabase, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        self._disk = disk
        self._name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)

    def xSync(self, flags: int) -> None:  # noqa: N802 - apsw's names
        if self._name.endswith(DATABASE) and threading.current_thread().name.startswith("duologue-backfill"):
            self._disk.reached.set()
            assert self._disk.go_on.wait(TIMEOUT)
            self._disk.check("sync")
        else:
            self._disk.check("commit")
        super().xSync(flags)


@pytest.fixture(autouse=True)
def rounds(monkeypatch: pytest.MonkeyPatch) -> list[Backfill]:
    """One item for each time that the backfill was begun."""
    found: list[Backfill] = []
    begin = Backfill.begin

    def watched(backfill: Backfill) -> None:
        found.append(backfill)
        begin(backfill)

    monkeypatch.setattr(Backfill, "begin", watched)
    return found


@pytest.fixture
def disk() -> Iterator[SlowDatabase]:
    made = SlowDatabase()
    yield made
    made.go_on.set()
    made.unregister()


async def opened(bench: Bench, disk: SlowDatabase, max_wal: int = wal.MAX_WAL) -> wal.Wal:
    """The log of a store whose first backfill waits for `go_on`."""
    store = await bench.open(vfs=disk.name, max_wal=max_wal)
    await bench.people(ANN, BOB)
    while not disk.reached.is_set():
        await write(bench, 20)
        assert len(bench.returned) < 50_000
    assert isinstance(store, SqliteStore)
    return store._writer._wal


async def write(bench: Bench, count: int) -> None:
    first = len(bench.returned)
    sent = [PendingMessage(ANN.id, BOB.id, f"{first + n}", "x" * 4_000, None) for n in range(count)]
    await bench.commit(*sent)
    assert {each.failure for each in sent} == {None}


async def until_moved(disk: SlowDatabase, rounds: list[Backfill]) -> None:
    """Let the disk go on, and wait for the round that waits for it: another thread, which the machine may forget for a while."""
    disk.go_on.set()
    async with asyncio.timeout(10):
        while rounds[-1].under_way:
            await asyncio.sleep(0)


def log_size(folder: Path) -> int:
    return folder.joinpath(f"{DATABASE}-wal").stat().st_size


async def test_messages_are_committed_while_the_disk_takes_its_time(
    bench: Bench, disk: SlowDatabase, rounds: list[Backfill]
) -> None:
    await opened(bench, disk)
    for _ in range(5):
        await write(bench, 20)
    assert len(rounds) == 1
    await until_moved(disk, rounds)
    for _ in range(100):
        await write(bench, 20)
        await until_moved(disk, rounds)
    assert log_size(bench.folder) < 3 * wal.CHECKPOINT_PAGES * 4_096
    await bench.close()
    assert bench.failures == []
    assert apsw.Connection(str(bench.folder / DATABASE)).execute("PRAGMA integrity_check").get == "ok"


async def test_if_much_was_added_that_is_moved_beside_the_writer_too(
    bench: Bench, disk: SlowDatabase, rounds: list[Backfill]
) -> None:
    log = await opened(bench, disk)
    while log.pages - log._begun_at < wal.ROUND_PAGES:
        await write(bench, 1)
    disk.go_on.set()
    while len(rounds) < 2:
        await write(bench, 1)
        assert len(bench.returned) < 50_000
    await bench.close()
    assert bench.failures == []


async def test_on_a_disk_slower_than_the_writer_it_is_done_in_one_step(
    bench: Bench, disk: SlowDatabase, rounds: list[Backfill]
) -> None:
    log = await opened(bench, disk)
    await write(bench, wal.CHECKPOINT_PAGES)
    await until_moved(disk, rounds)
    while log._without != 1:
        await write(bench, 20)
        assert log.pages < 4 * wal.CHECKPOINT_PAGES
    assert len(rounds) == 1
    while len(rounds) < 2:  # it may be quicker by now
        await write(bench, 20)
        assert len(bench.returned) < 50_000
    await bench.close()
    assert bench.failures == []


@pytest.mark.parametrize(
    ("batch", "least", "most"), [(1, 0, wal.CHECKPOINT_PAGES), (wal.BUSY_BATCH, wal.CHECKPOINT_PAGES, wal.BUSY_PAGES)]
)
async def test_checkpoints_are_small_while_batches_are(tmp_path: Path, batch: int, least: int, most: int) -> None:
    store = OneThread(tmp_path / "data", SetClock())
    store.add(ANN, BOB)
    longest = 0
    for number in range(20_000 // (batch + 20)):
        store.writer.write([PendingMessage(ANN.id, BOB.id, f"{number} {n}", "x" * 400, None) for n in range(batch)])
        store.writer.rest(batch)
        longest = max(longest, store.wal.pages)
    assert least < longest < most
    store.close()


@pytest.mark.parametrize("max_wal", [wal.MAX_WAL, 3 * wal.CHECKPOINT_PAGES * 4_096], ids=["", "at the log's bound"])
async def test_a_database_that_cannot_be_synced_ends_the_store(bench: Bench, disk: SlowDatabase, max_wal: int) -> None:
    log = await opened(bench, disk, max_wal)
    if max_wal < wal.MAX_WAL:
        for number in range(2_500):  # without waiting for them: at the bound a batch waits for what is under way
            bench.store.submit(PendingMessage(ANN.id, BOB.id, f"to the bound {number}", "x" * 4_000, None))
        while log.pages < log._max_pages:
            await asyncio.sleep(0)
    disk.fail = {"sync"}
    disk.go_on.set()
    while not bench.failures:
        await bench.commit(PendingMessage(ANN.id, BOB.id, f"last {len(bench.returned)}", "hello", None))
    assert [type(error) for error in bench.failures] == [StoreFailed]
    await bench.close()
    mark = bench.folder.joinpath(MARK).read_text()
    assert '"changed":null' in mark, "it says that it was stopped cleanly"


async def test_a_failed_commit_is_told_while_the_disk_stands_still(bench: Bench, disk: SlowDatabase) -> None:
    await opened(bench, disk)
    disk.fail = {"commit"}
    bench.store.submit(PendingMessage(ANN.id, BOB.id, "the last one", "hello", None))
    await bench.failed()
    assert not disk.go_on.is_set()
    disk.fail.clear()
    disk.go_on.set()
    await bench.close()


async def test_a_stop_waits_for_what_is_under_way(bench: Bench, disk: SlowDatabase) -> None:
    await opened(bench, disk)
    closing = asyncio.create_task(bench.close())
    await asyncio.sleep(0)
    disk.go_on.set()
    await closing
    assert not bench.folder.joinpath(f"{DATABASE}-wal").exists()
    assert bench.failures == []
