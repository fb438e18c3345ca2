"""The data folder: locks (F12), versions (F16), restored backups (F26), other processes (F27), permissions."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import apsw
import pytest

from duologue.domain.errors import Code, StoreUnusable
from duologue.domain.ports import PendingMessage

from .conftest import ANN, BOB, Bench

pytestmark = pytest.mark.asyncio


def _database(bench: Bench) -> apsw.Connection:
    return apsw.Connection(str(bench.folder / "messages.db"))


async def test_a_second_server_is_refused_and_harms_nothing(ready: Bench) -> None:
    before = {path.name: path.read_bytes() for path in ready.folder.iterdir()}
    with pytest.raises(StoreUnusable, match=f"in use by process {os.getpid()}"):
        await Bench(ready.folder).open()
    assert {path.name: path.read_bytes() for path in ready.folder.iterdir()} == before
    assert (await ready.send(ANN, BOB)).seq == 1


async def test_files_are_for_their_owner_only(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    before = os.umask(0)
    try:
        await bench.open()
        await bench.people(ANN, BOB)
        await bench.send(ANN, BOB)
    finally:
        os.umask(before)
    assert stat.S_IMODE(bench.folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in bench.folder.iterdir()} == {0o600}
    await bench.close()
    (bench.folder / "messages.db").chmod(0o644)
    await bench.open()
    assert "can be read by others" in caplog.text


def _listing(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    """Every file's content, and what would tell that it was replaced or written with the same bytes."""
    return {
        path.name: (path.read_bytes(), path.stat().st_ino, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())
    }


@pytest.mark.parametrize("lock", [True, False], ids=["with its lock", "a lone copy"])
@pytest.mark.parametrize("damage", ["newer", "newer in the log", "garbage", "other program", "torn"])
async def test_what_cannot_be_used_is_refused_untouched(ready: Bench, damage: str, lock: bool) -> None:
    for n in range(50):
        await ready.send(ANN, BOB, "x" * 2000, id=f"m{n}")
    await ready.close()
    path = ready.folder / "messages.db"
    if damage.startswith("newer"):
        connection = _database(ready)
        if damage == "newer in the log":
            connection.config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        connection.execute("UPDATE meta SET value = 99 WHERE name IN ('schema_version', 'oldest_reader')")
        connection.close()
        # What a stop of the power leaves has no index beside its log.
        (ready.folder / "messages.db-shm").unlink(missing_ok=True)
        assert (ready.folder / "messages.db-wal").exists() == (damage == "newer in the log")
    elif damage == "garbage":
        path.write_bytes(b"no database" * 1000)
    elif damage == "other program":
        path.unlink()
        connection = _database(ready)
        connection.execute("CREATE TABLE theirs (x)")
        connection.close()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:8192] + bytes(8192) + content[16384:])
    if lock:
        (ready.folder / "lock").write_text("of another time")
    else:
        (ready.folder / "lock").unlink()
    before = _listing(ready.folder)
    with pytest.raises(StoreUnusable) as raised:
        await ready.open()
    assert "\n" not in str(raised.value)
    after = _listing(ready.folder)
    if damage == "torn":
        # That is found by a check that may take long, so this server says meanwhile that it has the folder.
        before.pop("lock", None), after.pop("lock")
    assert after == before


async def test_a_folder_that_was_refused_can_be_had_by_the_next(ready: Bench) -> None:
    await ready.close()
    kept = (ready.folder / "messages.db").read_bytes()
    (ready.folder / "messages.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreUnusable, match="not a database"):
        await ready.open()
    (ready.folder / "messages.db").write_bytes(kept)
    await ready.open()
    assert (await ready.send(ANN, BOB)).seq == 1


async def test_another_program_that_only_looks_does_not_keep_a_server_from_its_log(ready: Bench) -> None:
    """Killed with a log, and somebody's `sqlite3` is open on it: the server starts all the same."""
    await ready.send(ANN, BOB)
    killed = ready.folder.parent / "killed"
    ready.copy_to(killed)
    other = apsw.Connection(str(killed / "messages.db"))
    assert other.execute("SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM chunk)").get == 1
    await ready.close()
    ready.place = killed
    await ready.open()
    assert (await ready.send(ANN, BOB)).seq == 2
    other.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE session SET person = 99",
        "UPDATE chunk SET key = key + (1 << 32)",
        "UPDATE dialog SET user = 99 WHERE user < peer",
        "UPDATE dialog SET peer = 99 WHERE user < peer",
    ],
)
async def test_a_row_of_nobody_is_found_after_an_unclean_stop(ready: Bench, damage: str) -> None:
    await ready.send(ANN, BOB)
    await ready.close()
    connection = _database(ready)
    connection.execute(damage)
    connection.close()
    (ready.folder / "incarnation").unlink()
    with pytest.raises(StoreUnusable, match="a row refers to somebody or something"):
        await ready.open()


async def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnusable, match="can't be made"):
        await Bench(tmp_path / "file" / "data").open()


@pytest.mark.parametrize("whole", [True, False], ids=["whole folder", "database only"])
async def test_a_restored_backup_changes_the_epoch(ready: Bench, tmp_path: Path, whole: bool) -> None:
    await ready.send(ANN, BOB)
    await ready.close()
    backup = tmp_path / "backup"
    shutil.copytree(ready.folder, backup)
    epoch = (await ready.open()).epoch
    await ready.send(ANN, BOB, "of the lost future")
    await ready.close()
    if whole:
        shutil.rmtree(ready.folder)
        shutil.copytree(backup, ready.folder)
    else:
        shutil.copy2(backup / "messages.db", ready.folder / "messages.db")
    await ready.open()
    assert ready.store.epoch != epoch
    assert (await ready.send(ANN, BOB)).seq == 2
    renewed = ready.store.epoch
    await ready.close()
    assert (await ready.open()).epoch == renewed


@pytest.mark.parametrize("lost", [True, False], ids=["no mark", "older mark"])
async def test_a_start_cut_between_its_two_marks_costs_a_resync_at_most(ready: Bench, lost: bool) -> None:
    epoch = ready.store.epoch
    await ready.close()
    mark = ready.folder / "incarnation"
    before = mark.read_bytes()
    await ready.open()
    await ready.close()
    mark.unlink() if lost else mark.write_bytes(before)
    assert (await ready.open()).epoch != epoch


async def test_a_write_lock_held_elsewhere_is_a_passing_refusal(bench: Bench) -> None:
    await bench.open(busy_timeout=0.05)
    await bench.people(ANN, BOB)
    other = _database(bench)
    other.execute("BEGIN IMMEDIATE")
    assert (await bench.send(ANN, BOB)).failure is Code.UNAVAILABLE
    other.execute("ROLLBACK")
    other.close()
    assert (await bench.send(ANN, BOB)).seq == 1
    assert bench.failures == []


async def test_a_reader_that_stays_bounds_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    limit = 2_000_000
    await bench.open(max_wal=limit)
    await bench.people(ANN, BOB)
    other = _database(bench)
    other.execute("BEGIN; SELECT count(*) FROM person").fetchall()
    log = bench.folder / "messages.db-wal"
    sent: list[PendingMessage] = []
    while not sent or sent[-1].failure is None:
        sent = [PendingMessage(ANN.id, BOB.id, f"{len(bench.returned)}-{n}", "x" * 4000, None) for n in range(50)]
        await bench.commit(*sent)
        assert len(bench.returned) < 5000
    assert sent[-1].failure is Code.UNAVAILABLE
    assert log.stat().st_size < 2 * limit
    assert (await bench.send(ANN, BOB)).failure is Code.UNAVAILABLE
    assert sum("writes are refused" in record.message for record in caplog.records) == 1
    other.execute("COMMIT")
    other.close()
    bench.clock.ahead += 60
    assert (await bench.send(ANN, BOB)).failure is None
    await bench.send(ANN, BOB)
    assert bench.failures == []
