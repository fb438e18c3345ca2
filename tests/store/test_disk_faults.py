"""Power lost (F1b), disk full (F9), I/O errors (F10), torn logs (F11)."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from duologue.domain.errors import Code, Refusal, StoreFailed
from duologue.domain.ports import PendingMessage
from duologue.store import committer
from duologue.store.sqlite import filing, wal
from duologue.store.sqlite.files import DATABASE
from duologue.store.sqlite.writer import RETRY_FILING

from .broken_disk import BrokenDisk
from .conftest import ANN, BOB, Bench, failures

pytestmark = pytest.mark.asyncio


@pytest.fixture
def disk() -> Iterator[BrokenDisk]:
    made = BrokenDisk()
    yield made
    made.unregister()


async def _stored(folder: Path) -> list[int]:
    """What a server started on `folder` has of Ann's and Bob's conversation."""
    other = Bench(folder)
    await other.open()
    try:
        page = await other.store.history(ANN.id, BOB.id, None, None, 10_000)
    except Refusal as refusal:
        if refusal.code is not Code.UNKNOWN_USER:
            raise
        return []
    finally:
        await other.close()
    return [message.seq for message in page.messages]


@pytest.mark.parametrize("synchronous", ["FULL", "NORMAL"])
async def test_power_lost(bench: Bench, disk: BrokenDisk, tmp_path: Path, synchronous: str) -> None:
    """With FULL nothing acknowledged is lost; NORMAL loses some, which shows that this disk does forget."""
    await bench.open(vfs=disk.name, synchronous=synchronous)
    await bench.people(ANN, BOB)
    lost = 0
    for turn in range(10):
        await bench.commit(*(PendingMessage(ANN.id, BOB.id, f"{turn}-{n}", "x" * 500, None) for n in range(20)))
        bench.store.submit(PendingMessage(ANN.id, BOB.id, f"under way {turn}", "x", None))
        acknowledged = max(m.seq for m in bench.returned if isinstance(m, PendingMessage))
        disk.lose_power(bench.folder, tmp_path / f"after-{turn}")
        seqs = await _stored(tmp_path / f"after-{turn}")
        assert seqs == list(range(1, len(seqs) + 1))
        lost += max(0, acknowledged - len(seqs))
        await bench.commit()
    assert (lost > 0) == (synchronous == "NORMAL")


async def test_full_disk_refuses_and_recovers(bench: Bench, disk: BrokenDisk) -> None:
    await bench.open(vfs=disk.name)
    await bench.people(ANN, BOB)
    first = await bench.send(ANN, BOB)
    disk.error, disk.fail = apsw.SQLITE_FULL, {"write"}
    refused = [PendingMessage(ANN.id, BOB.id, f"m{n}", "x", None) for n in range(3)]
    await bench.commit(*refused)
    assert failures(refused) == {Code.STORAGE_FULL}
    with pytest.raises(Refusal, match=Code.STORAGE_FULL):
        await bench.store.seen([ANN.id], 1)
    page = await bench.store.history(ANN.id, BOB.id, None, None, 10)
    assert [m.id for m in page.messages] == [first.id]
    disk.fail = set()
    again = [PendingMessage(ANN.id, BOB.id, f"m{n}", "x", None) for n in range(3)]
    await bench.commit(*again)
    assert [m.seq for m in again] == [2, 3, 4]
    assert bench.failures == []


@pytest.mark.parametrize("trouble", [Code.STORAGE_FULL, Code.UNAVAILABLE])
async def test_what_cannot_be_filed_in_time_is_refused_as_what_it_is(
    bench: Bench, disk: BrokenDisk, monkeypatch: pytest.MonkeyPatch, trouble: Code
) -> None:
    """A journal as long as it may get: nothing more is taken until some of it is in the tables."""
    monkeypatch.setattr(committer, "LEISURE", 60.0)
    monkeypatch.setattr(filing, "RIPE", 10**6)
    await bench.open(vfs=disk.name, busy_timeout=0.05)
    await bench.people(ANN, BOB)
    other = apsw.Connection(str(bench.folder / "messages.db"))
    await bench.commit(*(PendingMessage(ANN.id, BOB.id, f"m{n}", "x", None) for n in range(40)))
    monkeypatch.setattr(filing, "RIPE", 8)
    if trouble is Code.UNAVAILABLE:
        other.execute("BEGIN IMMEDIATE")
    else:
        disk.error, disk.fail = apsw.SQLITE_FULL, {"write"}
    assert (await bench.send(ANN, BOB)).failure is trouble
    assert (await bench.send(ANN, BOB)).failure is trouble, "also while it isn't tried again"
    other.close()
    disk.fail = set()
    bench.clock.ahead += RETRY_FILING
    sent = await bench.send(ANN, BOB)
    assert (sent.seq, sent.failure) == (41, None)
    assert bench.failures == []


async def test_full_file_system_refuses_and_recovers(bench: Bench) -> None:
    """The same on a real small file system, where mounting one is permitted."""
    bench.folder.mkdir(mode=0o700)
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m,mode=700", "tmpfs", str(bench.folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:  # noqa: ASYNC221
        pytest.skip("mounting a tmpfs isn't permitted here")
    try:
        await bench.open()
        await bench.people(ANN, BOB)
        ballast = bench.folder / "ballast"
        ballast.write_bytes(bytes(1_200_000))
        sent: list[PendingMessage] = []
        while not sent or sent[-1].failure is None:
            sent.append(await bench.send(ANN, BOB, "x" * 8000))
            assert len(sent) < 1000
        assert sent[-1].failure is Code.STORAGE_FULL
        page = await bench.store.history(ANN.id, BOB.id, None, None, 1)
        assert page.messages[-1].seq == len(sent) - 1
        ballast.unlink()
        assert (await bench.send(ANN, BOB)).seq == len(sent)
        assert bench.failures == []
    finally:
        await bench.close()
        subprocess.run(["umount", str(bench.folder)], check=True)  # noqa: ASYNC221


@pytest.mark.parametrize(("operation", "error"), [("sync", "FSYNC"), ("write", "WRITE")])
async def test_an_io_error_is_final(bench: Bench, disk: BrokenDisk, operation: str, error: str) -> None:
    await bench.open(vfs=disk.name)
    await bench.people(ANN, BOB)
    disk.error, disk.fail = getattr(apsw, f"SQLITE_IOERR_{error}"), {operation}
    sent = [PendingMessage(ANN.id, BOB.id, f"m{n}", "x", None) for n in range(3)]
    await bench.commit(*sent)
    assert failures(sent) == {Code.UNAVAILABLE}
    disk.fail = set()
    with pytest.raises(Refusal, match=Code.UNAVAILABLE):
        bench.store.submit(PendingMessage(ANN.id, BOB.id, "later", "x", None))
    await bench.close()
    assert [type(failure) for failure in bench.failures] == [StoreFailed]


async def test_torn_log_opens_to_a_prefix(bench: Bench, tmp_path: Path) -> None:
    await bench.open()
    await bench.people(ANN, BOB)
    for n in range(12):
        await bench.commit(*(PendingMessage(ANN.id, BOB.id, f"{n}-{k}", "x" * 300, None) for k in range(5)))
    live = tmp_path / "live"
    bench.copy_to(live)
    log = (live / "messages.db-wal").read_bytes()
    lengths = []
    for step in range(25):
        torn = tmp_path / f"torn-{step}"
        shutil.copytree(live, torn)
        (torn / "messages.db-wal").write_bytes(log[: len(log) * step // 24 - (step % 3)] if step else b"")
        seqs = await _stored(torn)
        assert seqs == list(range(1, len(seqs) + 1))
        assert len(seqs) % 5 == 0
        lengths.append(len(seqs))
    assert lengths == sorted(lengths)
    assert lengths[0] == 0
    assert lengths[-2] >= 50


class ForgetsWhatIsMoved(BrokenDisk):
    """Fails, once it's `armed`, the sync of what is moved into the database beside the writer."""

    armed = False

    def forgets(self, name: str) -> bool:
        moving = threading.current_thread().name.startswith("duologue-backfill")
        return self.armed and moving and name.endswith(DATABASE)


async def test_a_sync_that_fails_at_a_stop_leaves_the_log(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What SQLite believes to have moved isn't there: only the log has it."""
    disk = ForgetsWhatIsMoved()
    monkeypatch.setattr(committer, "LEISURE", 60.0)
    monkeypatch.setattr(wal, "CHECKPOINT_PAGES", 1_000_000)  # nothing is moved before the stop
    await bench.open(vfs=disk.name)
    await bench.people(ANN, BOB)
    for turn in range(20):
        await bench.commit(*(PendingMessage(ANN.id, BOB.id, f"{turn}-{n}", "x" * 4_000, None) for n in range(40)))
    monkeypatch.setattr(wal, "CHECKPOINT_PAGES", 250)
    disk.armed = True
    await bench.close()
    assert [type(failure) for failure in bench.failures] == [StoreFailed]
    disk.unregister()
    assert await _stored(bench.folder) == list(range(1, 801))
