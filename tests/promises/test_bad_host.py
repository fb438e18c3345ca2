"""F7, F8, F9, F17, F26, F27: a machine that stalls, jumps in time, fills its disk or gets an old backup back.

Disks, backups and locks are those of one machine here; a shared database has them in tests/nodes/test_bad_disk.py,
tests/store/test_failover.py and tests/store/test_postgres.py.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from duologue.store.sqlite.wal import AT_REST, MAX_WAL
from tests.conftest import StartServer, on_both
from tests.promises.judge import judge
from tests.support.client import ChatClient, Refused
from tests.support.links import WebsocketLink
from tests.support.record import Record

pytestmark = pytest.mark.asyncio

FAKETIME = {
    "LD_PRELOAD": "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    # Else it takes the deadlines of waiting threads for another clock's, and they spin instead.
    "FAKETIME_FORCE_MONOTONIC_FIX": "0",
}
"""What has a process see another time of day, by FAKETIME or FAKETIME_TIMESTAMP_FILE."""

HOUR_MS = 3_600_000
UNDER_WAY = 500


@on_both
async def test_a_stalled_server(start_server: StartServer) -> None:
    """F7, the times a twentieth: clients give up on it, come back when it goes on, and nothing is there twice."""
    server = start_server("--ping-interval", "0.5", "--ping-timeout", "0.5")
    record = Record()
    async with ChatClient(server.url, "bob", record) as bob:
        alice = await ChatClient(server.url, "alice", record).connect()
        await alice.send(bob.user_id, "before")
        server.suspend()
        sending = asyncio.create_task(alice.send(bob.user_id, "meanwhile", id="00000000-0000-4000-8000-000000000001"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(sending), 2)
        alice.cut()
        await asyncio.gather(sending, return_exceptions=True)
        server.resume()
        await alice.connect_surely()
        answer = await alice.send_surely(bob.user_id, "meanwhile", id="00000000-0000-4000-8000-000000000001")
        assert answer["seq"] == 2
        await judge(record, alice, bob)
        await alice.close()


@on_both
async def test_a_pause_disconnects_nobody(start_server: StartServer) -> None:
    """F17: after a pause longer than a whole heartbeat everybody gets the time back that the loop had lost."""
    server = start_server("--ping-interval", "1", "--ping-timeout", "1.5")
    clients = [await ChatClient(server.url, f"person {number}").connect() for number in range(50)]
    server.suspend()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(clients[0].wait_ended(), 4)
    server.resume()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.shield(clients[0].wait_ended()), 3)
    assert all(client.connected for client in clients)
    for client in clients:
        await client.close()


@on_both
async def test_the_clock_jumps(start_server: StartServer) -> None:
    """F8: an hour back and an hour forward between two lives; order, cursors and unread counts don't notice."""
    record = Record()
    times = []
    alice, bob = ChatClient("", "alice", record), ChatClient("", "bob", record)
    for offset in ("+0", "-3600", "+3600"):
        server = start_server(env={**FAKETIME, "FAKETIME": offset})
        alice.url = bob.url = server.url
        await alice.connect()
        await bob.connect()
        for number in range(20):
            times.append((await alice.send(bob.user_id, f"at {offset}: {number}"))["at"])
        await bob.wait_for_message(f"at {offset}: 19")
        alice.cut()
        bob.cut()
        server.kill()
    assert times[20] < times[19] - HOUR_MS * 0.9
    assert times[40] > times[39] + HOUR_MS * 1.9
    server = start_server()
    alice.url = bob.url = server.url
    assert [message.seq for message in await judge(record, alice, bob)] == list(range(1, 61))
    await alice.close()
    await bob.close()


@on_both
async def test_the_clock_jumps_under_load(start_server: StartServer, tmp_path: Path) -> None:
    """F8 within one life: an hour back and an hour forward while people talk. No order depends on it, nor a heartbeat: those
    who answer stay, and who is silent is noticed whatever the clock says."""
    offset = tmp_path / "offset"

    def jump_to(seconds: str) -> None:
        """At once: a file that is being written is empty for a moment, which would be a jump of its own."""
        (tmp_path / "next").write_text(seconds)
        (tmp_path / "next").replace(offset)

    jump_to("+0")
    env = {**FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_NO_CACHE": "1"}
    server = start_server("--ping-interval", "0.5", "--ping-timeout", "1.5", "--presence-grace", "0", env=env)
    record = Record()
    async with ChatClient(server.url, "alice", record) as alice, ChatClient(server.url, "bob", record) as bob:
        times: list[int] = []
        done = asyncio.Event()

        async def speak(person: ChatClient, peer: ChatClient) -> None:
            for number in itertools.count():
                if done.is_set():
                    return
                times.append((await person.send(peer.user_id, f"{person.username} {number}"))["at"])

        async def somebody_falls_silent() -> None:
            async with ChatClient(server.url, "witness", guide=True) as witness:
                silent = await ChatClient(server.url, "silent").connect()
                assert isinstance(silent.link, WebsocketLink)
                silent.link.pause_reading()
                await witness.wait_for(lambda event: event == ("user disconnected", [silent.user_id]))
                silent.cut()

        talking = asyncio.gather(speak(alice, bob), speak(bob, alice))
        await record.until_acknowledged(50)
        jump_to("-3600")
        await somebody_falls_silent()
        for seconds in ("+3600", "+0"):
            jump_to(seconds)
            await record.acknowledged(100)
        done.set()
        await talking
        assert alice.connected
        assert bob.connected
        steps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert min(steps) < -HOUR_MS * 0.9, "the clock of the server did not jump"
        assert max(steps) > HOUR_MS * 1.9, "the clock of the server did not jump"
        await judge(record, alice, bob)
    lives = {log.number for log in record.sockets if log.device in (alice.device, bob.device)}
    assert lives == {1, 2}, "somebody was disconnected before the judge had them come back"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB. Needs root, as CI has."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True, timeout=30)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True, timeout=30)


async def test_the_disk_is_full(start_server: StartServer, small_disk: Path) -> None:
    """F9: sends are refused with a hint, reads go on, and service returns with the space, without a restart."""
    server = start_server(data=small_disk / "data")
    record = Record()
    async with ChatClient(server.url, "alice", record) as alice, ChatClient(server.url, "bob", record) as bob:
        with pytest.raises(Refused) as refused:
            for number in range(10_000):
                await alice.send(bob.user_id, f"{number} " + "x" * 4000)
        assert refused.value.code == "storage full"
        assert refused.value.answer["retryAfter"] > 0
        page = await bob.history(alice.user_id)
        assert page["messages"]
        subprocess.run(["mount", "-o", "remount,size=30m", small_disk], check=True, timeout=30)
        await alice.send_surely(bob.user_id, "there is room again")
        await bob.wait_for_message("there is room again")
        await judge(record, alice, bob)


async def test_an_older_backup_is_restored(start_server: StartServer, tmp_path: Path) -> None:
    """F26: the epoch changes, every client starts over, and what the backup never had is announced as nothing."""
    data, backup = tmp_path / "data", tmp_path / "backup"
    server = start_server(data=data)
    async with ChatClient(server.url, "alice") as alice, ChatClient(server.url, "bob") as bob:
        await alice.send(bob.user_id, "in the backup")
    assert server.terminate() == 0
    shutil.copytree(data, backup)
    server.start()
    await alice.connect()
    await alice.send(bob.user_id, "after the backup")
    await alice.close()
    assert server.terminate() == 0
    shutil.rmtree(data)
    shutil.copytree(backup, data)
    server.start()
    await alice.connect()
    page = alice.pages[0]
    assert page["reset"]
    (conversation,) = page["conversations"]
    assert [message["content"] for message in conversation["messages"]] == ["in the backup"]
    assert (conversation["seq"], conversation["gap"]) == (1, None)
    assert (await alice.send(bob.user_id, "goes on"))["seq"] == 2
    await alice.close()


async def test_another_process_holds_the_write_lock(start_server: StartServer, tmp_path: Path) -> None:
    """F27: busy is a refusal that may be retried, and the service returns by itself."""
    data = tmp_path / "data"
    server = start_server(data=data)
    record = Record()
    async with ChatClient(server.url, "alice", record) as alice, ChatClient(server.url, "bob", record) as bob:
        await alice.send(bob.user_id, "before")
        (database,) = data.glob("*.db")
        other = sqlite3.connect(database, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Refused) as refused:
            await alice.send(bob.user_id, "busy", id="00000000-0000-4000-8000-000000000001")
        assert refused.value.code == "unavailable"
        assert refused.value.answer["retryAfter"] > 0
        assert (await bob.history(alice.user_id))["messages"]
        other.execute("ROLLBACK")
        other.close()
        await alice.send_surely(bob.user_id, "busy", id="00000000-0000-4000-8000-000000000001")
        await judge(record, alice, bob)


_STORED = "SELECT (SELECT count(*) FROM journal) + (SELECT count(*) FROM chunk)"


async def until_refused(sender: ChatClient, to: str, name: str, messages: int, size: int) -> list[Refused]:
    """Send so many messages, or until some are refused: those refusals."""
    text = "x" * size
    for start in range(0, messages, UNDER_WAY):
        sends = (sender.send(to, f"{name} {start + each} {text}") for each in range(UNDER_WAY))
        answers = await asyncio.gather(*sends, return_exceptions=True)
        refusals = [answer for answer in answers if isinstance(answer, Refused)]
        others = [answer for answer in answers if isinstance(answer, BaseException) and answer not in refusals]
        assert not others, others[0]
        if refusals:
            return refusals
    return []


async def pin_the_log(
    start_server: StartServer, data: Path, messages: int, size: int, bound: int | None = None
) -> None:
    """F27: a reader from outside holds an old snapshot while many messages are written, so that the log can't be emptied.

    Writes go on, up to the `bound` of the log if one is to be met; then they are refused with a hint, and reads go on.
    """
    server = start_server("--message-rate", "1000000", "--message-burst", "1000000", data=data)
    record = Record()
    async with ChatClient(server.url, "alice", record) as alice, ChatClient(server.url, "bob", record) as bob:
        await alice.send(bob.user_id, "before")
        (database,) = data.glob("*.db")
        log = database.with_name(database.name + "-wal")
        reader = sqlite3.connect(database, isolation_level=None)
        reader.execute("BEGIN")
        assert reader.execute(_STORED).fetchone() == (1,)
        refusals = await until_refused(alice, bob.user_id, "pinned", messages, size)
        pinned = log.stat().st_size
        assert reader.execute(_STORED).fetchone() == (1,), "the snapshot was not held"
        assert pinned > max(messages * size if bound is None else bound, 2 * AT_REST), "the log was emptied"
        server.wait_for_log("another process holds an old snapshot")
        if bound is None:
            assert not refusals
        else:
            assert pinned < bound * 1.02
            assert {refusal.code for refusal in refusals} == {"unavailable"}
            assert all(refusal.answer["retryAfter"] > 0 for refusal in refusals)
            server.wait_for_log("writes are refused")
            assert (await bob.history(alice.user_id))["messages"]
        reader.execute("COMMIT")
        reader.close()
        # Within some seconds of writing the log is emptied and its file cut.
        await alice.send_surely(bob.user_id, "the reader is gone")
        for run in range(20):
            assert await until_refused(alice, bob.user_id, f"after {run}", 2_000, size) == []
            if log.stat().st_size <= AT_REST:
                break
        assert log.stat().st_size <= AT_REST
        await judge(record, alice, bob)
    assert server.terminate() == 0
    assert not log.exists() or log.stat().st_size == 0


@pytest.mark.timeout(180)
async def test_a_reader_pins_the_log(start_server: StartServer, tmp_path: Path) -> None:
    await pin_the_log(start_server, tmp_path / "data", 10_000, 7_900)


@pytest.mark.torture
@pytest.mark.timeout(3600)
async def test_a_reader_pins_the_log_up_to_its_bound(start_server: StartServer, tmp_path: Path) -> None:
    await pin_the_log(start_server, tmp_path / "data", 1_000_000, 4_000, MAX_WAL)
