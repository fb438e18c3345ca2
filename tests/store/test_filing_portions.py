"""How much is filed at once, and how much of the journal removed: nobody waits for all of a sweep, and nothing piles up."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import apsw
import pytest

from duologue.domain.ports import PendingMessage, PendingReceipt
from duologue.store import committer
from duologue.store.sqlite import filing, writer
from duologue.store.sqlite.files import DATABASE
from duologue.store.sqlite.identities import Identities
from duologue.store.sqlite.young import PER_MESSAGE, Part
from tests.support.clock import SetClock

from .conftest import ANN, BOB, CAT, Bench, failures
from .one_thread import OneThread
from .whole import again, ask, check_pages

pytestmark = pytest.mark.asyncio


async def test_long_messages_of_one_conversation_are_filed_a_few_at_a_time(
    ready: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or all would wait while megabytes go to the disk at once."""
    monkeypatch.setattr(filing, "RIPE", 10**6)
    monkeypatch.setattr(filing, "RIPE_CHARACTERS", 200_000)
    monkeypatch.setattr(filing, "PORTION", 20_000)
    filed: list[int] = []
    whole = filing.file

    def watched(connection: apsw.Connection, identities: Identities, parts: list[Part]) -> None:
        filed.append(sum(len(row.content) for part in parts for row in part.rows))
        whole(connection, identities, parts)

    monkeypatch.setattr(filing, "file", watched)
    rng = random.Random(4)
    sent: list[PendingMessage] = []
    for number in range(150):
        fresh = [PendingMessage(ANN.id, BOB.id, f"{number} {n}", "x" * 8_000, None) for n in range(rng.randrange(1, 4))]
        await ready.commit(*fresh)
        sent += fresh
        if number % 30 == 0:
            await check_pages(ready, sent)
    assert sum(filed) > 1_000_000
    # What was no portion yet, and what is filed for what came with a batch.
    assert max(filed) <= filing.PORTION + filing.FILED_PER_NEW * 3 * (8_000 + PER_MESSAGE)
    await check_pages(ready, sent)
    await ready.close()
    await ready.open()
    await check_pages(ready, sent)
    retries = [again(message) for message in sent]
    await ready.commit(*retries)
    assert all(message.duplicate for message in retries)


async def test_a_sweep_is_spread_over_the_batches_that_come_meanwhile(
    ready: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It files `FILED_PER_NEW` times as much as comes, not in a burst, however small the batches."""
    monkeypatch.setattr(filing, "RIPE", 400)
    monkeypatch.setattr(filing, "PORTION", 10 * (PER_MESSAGE + 4))
    monkeypatch.setattr(committer, "LEISURE", 60.0)
    filed: list[int] = []
    whole = filing.file

    def watched(connection: apsw.Connection, identities: Identities, parts: list[Part]) -> None:
        filed.append(sum(len(part.rows) for part in parts))
        whole(connection, identities, parts)

    monkeypatch.setattr(filing, "file", watched)
    for number in range(400):
        await ready.commit(PendingMessage(ANN.id, BOB.id, f"id {number}", "text", None))
    assert sum(filed) <= 10
    for number in range(400, 500):
        await ready.commit(PendingMessage(ANN.id, BOB.id, f"id {number}", "text", None))
    assert 100 <= sum(filed) <= 120
    assert max(filed) <= 12


async def test_what_a_sweep_has_filed_leaves_the_journal_little_by_little(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or all would wait for as many pages to be freed as the whole sweep had. Two batches' rows go for one that comes."""
    monkeypatch.setattr(filing, "RIPE", 100)
    monkeypatch.setattr(filing, "MOST", 1)
    monkeypatch.setattr(filing, "PORTION", 10**6)
    monkeypatch.setattr(filing, "FORGOTTEN_AT_ONCE", 3_000)
    store = OneThread(tmp_path / "data", SetClock())
    store.add(ANN, BOB, CAT)
    sent: list[PendingMessage] = []

    def rows(count: int, length: int) -> list[int]:
        """How many the journal has after each batch of one message."""
        found: list[int] = []
        for _ in range(count):
            sent.append(PendingMessage(ANN.id, BOB.id, f"{len(sent)}", "x" * length, None))
            store.writer.write(sent[-1:])
            store.writer.rest(1)
            found.append(int(str(store.writing.execute("SELECT count(*) FROM journal").get)))
        return found

    assert rows(99, 2_000) == list(range(1, 100))
    assert rows(20, 2_000) == list(range(98, 78, -1))
    shutil.copytree(tmp_path / "data", tmp_path / "killed", ignore=lambda *_: ["lock", "messages.db-shm"])
    killed = len(sent)
    assert rows(80, 2_000) == [*range(78, 48, -1), *range(50, 100)]
    assert min(rows(200, 5)) < 5, "many short ones are a portion"
    store.close()
    for folder, count in (("data", len(sent)), ("killed", killed)):
        bench = Bench(tmp_path / folder)
        await bench.open()
        await check_pages(bench, sent[:count])
        retries = [again(message) for message in sent[:count]]
        await bench.commit(*retries)
        assert all(message.duplicate for message in retries)
        await bench.close()
        assert ask(tmp_path / folder / DATABASE, "SELECT count(*) FROM journal") == [(0,)]


async def test_short_messages_do_not_pile_up_behind_long_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep whose portions were full after a few long ones each would go on while many sweeps of short ones gather."""
    monkeypatch.setattr(filing, "RIPE", 400)
    monkeypatch.setattr(filing, "RIPE_CHARACTERS", 100_000)
    monkeypatch.setattr(filing, "PORTION", 250)
    store = OneThread(tmp_path / "data", SetClock())
    store.add(ANN, BOB, CAT)
    most = 0
    for number in range(400):
        sender, text, count = (ANN, "x" * 1_000, 1) if number < 100 else (CAT, "x", 10)
        batch = [PendingMessage(sender.id, BOB.id, f"{number} {n}", text, None) for n in range(count)]
        store.writer.write(batch)
        assert failures(batch) == {None}
        store.writer.rest(count)
        most = max(most, store.young.messages)
    assert 300 < most < 2 * 400
    store.close()


async def test_a_sweep_ends_while_its_only_conversation_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It files little more than comes, and would run after its end; the journal would keep all of it until then."""
    monkeypatch.setattr(filing, "RIPE", 100)
    monkeypatch.setattr(filing, "PORTION", 3 * PER_MESSAGE)
    monkeypatch.setattr(filing, "FORGOTTEN_AT_ONCE", 10**6)
    store = OneThread(tmp_path / "data", SetClock())
    store.add(ANN, BOB, CAT)
    sent: list[PendingMessage] = []
    longest = read = 0
    for number in range(1_500):
        sent.append(PendingMessage(ANN.id, BOB.id, f"{number}", "x", None))
        store.writer.write(sent[-1:])
        store.writer.rest(1)
        longest = max(longest, int(str(store.writing.execute("SELECT count(*) FROM journal").get)))
        if number % 7 == 0:
            read = len(sent) - 3
            store.writer.write([PendingReceipt(BOB.id, ANN.id, read, read, None)])
            store.writer.rest(1)
        if number % 149 == 0:
            # As a crash would leave it: part of the conversation in the tables, part in the journal.
            killed = Bench(tmp_path / f"killed-{number}")
            shutil.copytree(tmp_path / "data", killed.folder, ignore=lambda *_: ["lock", "messages.db-shm"])
            await killed.open()
            await check_pages(killed, sent)
            for user, positions in ((ANN, "theirs"), (BOB, "mine")):
                (seen,) = (await killed.store.sync(user.id, None, None, 9, 9, 9)).conversations
                assert getattr(seen, positions).read == max(0, read)
            await killed.close()
    assert 190 < longest < 260
    store.close()


async def test_what_filing_fell_behind_by_is_not_made_good_at_once(
    ready: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filing, "RIPE", 10**6)
    monkeypatch.setattr(filing, "RIPE_CHARACTERS", 10_000)
    monkeypatch.setattr(filing, "PORTION", 2 * (1_000 + PER_MESSAGE))
    monkeypatch.setattr(writer, "RETRY_FILING", 0.0)
    monkeypatch.setattr(committer, "LEISURE", 60.0)
    tried: list[int] = []
    works = False
    whole = filing.file

    def watched(connection: apsw.Connection, identities: Identities, parts: list[Part]) -> None:
        tried.append(sum(len(row.content) for part in parts for row in part.rows))
        if not works:
            raise apsw.BusyError("made up")
        whole(connection, identities, parts)

    monkeypatch.setattr(filing, "file", watched)
    for _ in range(30):
        await ready.send(ANN, BOB, "x" * 1_000)
    works = True
    for _ in range(50):
        await ready.send(ANN, BOB, "x" * 1_000)
    assert failures(ready.returned) == {None}
    assert len(tried) > 30
    assert max(tried) == 2 * 1_000
