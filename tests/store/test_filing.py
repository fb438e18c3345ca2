"""What is stored is found wherever it is by now: in memory, on its way into the tables, in them, or in the journal only."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import apsw
import pytest

from duologue.domain.errors import Code, Refusal
from duologue.domain.model import User
from duologue.domain.ports import PendingMessage
from duologue.store import committer
from duologue.store.sqlite import SqliteStore, chunks, filing, schema, writer
from duologue.store.sqlite.files import DATABASE
from duologue.store.sqlite.identities import Identities
from duologue.store.sqlite.young import PER_MESSAGE

from .conftest import ANN, BOB, CAT, TIMEOUT, Bench, failures
from .whole import PEOPLE, again, ask, check_pages

pytestmark = pytest.mark.asyncio


def some(rng: random.Random, number: int) -> PendingMessage:
    sender, recipient = rng.sample(PEOPLE, 2)
    return PendingMessage(sender.id, recipient.id, f"{rng.getrandbits(64):x} {number}", f"text {number}", None)


@pytest.mark.parametrize("ripe", [1, 7, 50, 10_000])
@pytest.mark.parametrize("leisure", [0.0, 60.0])
async def test_any_message_at_any_time(
    ready: Bench, monkeypatch: pytest.MonkeyPatch, ripe: int, leisure: float
) -> None:
    monkeypatch.setattr(filing, "RIPE", ripe)
    monkeypatch.setattr(committer, "LEISURE", leisure)
    await ready.close()
    rng = random.Random(ripe)
    sent: list[PendingMessage] = []
    for life in range(4):
        await ready.open()
        for _ in range(40):
            fresh = [some(rng, len(sent) + number) for number in range(rng.randrange(1, 9))]
            await ready.commit(*fresh)
            sent += fresh
            if rng.random() < 0.3:
                known = rng.choice(sent)
                retry, other, after = again(known), again(known, "another text"), some(rng, len(sent))
                await ready.commit(after, retry, other)
                sent.append(after)
                assert retry.duplicate
                assert (retry.seq, retry.rev, retry.sender_version) == (known.seq, known.rev, known.sender_version)
                assert other.failure is Code.CONFLICT
        await check_pages(ready, sent)
        assert not any(message.duplicate or message.failure for message in sent)
        if life % 2:
            await ready.close()
        else:  # as after a power cut: what is on disk, without a clean end
            copy = ready.folder.with_name(f"{ready.folder.name}-{life}")
            ready.copy_to(copy)
            await ready.close()
            ready.place = copy
    assert ask(ready.folder / DATABASE, "SELECT count(*) FROM identity") == [(len(sent),)]
    assert ask(ready.folder / DATABASE, "SELECT count(*) FROM journal") == [(0,)]
    await ready.open()
    await check_pages(ready, sent)
    retries = [again(message) for message in sent]
    await ready.commit(*retries)
    assert [(message.seq, message.duplicate) for message in retries] == [(message.seq, True) for message in sent]


async def test_ids_of_one_hash(ready: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another id with the hash of a known one is a new message, in memory as on disk and within a batch."""
    monkeypatch.setattr(
        Identities, "of", lambda self, conversation, low, rows: tuple(conversation << chunks.SEQ_BITS | 7 for _ in rows)
    )
    rng = random.Random(2)
    sent: list[PendingMessage] = []
    for _ in range(8):
        fresh = [some(rng, len(sent) + number) for number in range(5)]
        await ready.commit(*fresh)
        sent += fresh
        retry = again(rng.choice(sent))
        await ready.commit(retry)
        assert retry.duplicate
        assert retry.seq == next(message.seq for message in sent if message.id == retry.id)
    assert not any(message.duplicate or message.failure for message in sent)
    await check_pages(ready, sent)


async def test_one_id_of_both_sides_and_in_two_conversations(ready: Bench) -> None:
    same = "11111111-1111-1111-1111-111111111111"
    sends = [
        PendingMessage(one.id, two.id, same, "x", None) for one, two in ((ANN, BOB), (BOB, ANN), (ANN, CAT), (ANN, ANN))
    ]
    await ready.commit(*sends)
    assert [(each.seq, each.duplicate, each.failure) for each in sends] == [
        (1, False, None), (2, False, None), (1, False, None), (1, False, None),
    ]  # fmt: skip
    retries = [again(each) for each in sends]
    await ready.commit(*retries, *map(again, sends))
    assert [(each.seq, each.duplicate) for each in retries] == [(1, True), (2, True), (1, True), (1, True)]


async def test_long_and_short_texts_share_chunks_that_fit_a_page(ready: Bench) -> None:
    rng = random.Random(3)
    sent = [await ready.send(ANN, BOB, "x" * rng.choice((1, 100, 3_000, 8_000))) for _ in range(60)]
    sent += [await ready.send(ANN, BOB, str(number)) for number in range(200)]
    await check_pages(ready, sent)
    await ready.close()
    rows = ask(ready.folder / DATABASE, "SELECT length(messages) FROM chunk")
    assert len(rows) < len(sent) / 3
    assert sorted(rows)[-2][0] <= 8_200, "a long message is alone in its chunk"
    assert sum(size <= chunks.CHUNK_BYTES for (size,) in rows) >= len(rows) - sum(
        len(each.content) > 3_000 for each in sent
    )


async def test_a_batch_that_failed_leaves_nothing(ready: Bench) -> None:
    rng = random.Random(1)
    first = [some(rng, number) for number in range(20)]
    await ready.commit(*first)
    other = apsw.Connection(str(ready.folder / DATABASE))
    other.set_busy_timeout(2_000)  # something may be on its way into the tables
    other.execute("BEGIN IMMEDIATE")
    refused = [some(rng, number) for number in range(20, 30)]
    await ready.commit(*refused)
    assert {message.failure for message in refused} == {Code.UNAVAILABLE}
    await check_pages(ready, first)  # also of what couldn't be filed
    other.execute("ROLLBACK")
    other.close()
    retries = [again(message) for message in refused]
    await ready.commit(*retries, *map(again, first))
    assert not any(message.duplicate or message.failure for message in retries)
    assert sum(message.duplicate for message in ready.returned if isinstance(message, PendingMessage)) == len(first)
    await check_pages(ready, [*first, *retries])


async def test_the_count_of_people_is_never_behind_what_can_be_read(ready: Bench) -> None:
    assert isinstance(ready.store, SqliteStore)
    store, writing = ready.store, ready.store._writer
    seen: list[tuple[int, Any]] = []

    def committed(connection: apsw.Connection, database: str, pages: int) -> int:
        seen.append((store.people_count(), ask(ready.folder / DATABASE, "SELECT count(*) FROM person")[0][0]))
        return writing._wal._committed(connection, database, pages)

    writing._connection.set_wal_hook(committed)
    await ready.people(User("e" * 16, "Eve"))
    assert seen
    assert all(count >= readable for count, readable in seen)
    other = apsw.Connection(str(ready.folder / DATABASE))
    other.set_busy_timeout(2_000)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(Refusal, match=Code.UNAVAILABLE):
        await ready.people(User("f" * 16, "Fay"))
    other.close()
    assert store.people_count() == 4


async def test_what_could_not_be_filed_is_filed_when_it_can_be_although_nobody_writes(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer, "RETRY_FILING", 0.1)
    await bench.open(busy_timeout=0.05)
    await bench.people(*PEOPLE)
    other = apsw.Connection(str(bench.folder / DATABASE))
    with monkeypatch.context() as busy:
        busy.setattr(committer, "LEISURE", 60.0)
        sent = [await bench.send(ANN, BOB) for _ in range(5)]
        other.execute("BEGIN IMMEDIATE")
    # Refused, and after it the writer has leisure again.
    assert (await bench.send(ANN, BOB)).failure is Code.UNAVAILABLE
    async with asyncio.timeout(TIMEOUT):
        while "stay in the journal" not in caplog.text:
            await asyncio.sleep(0.01)
        assert ask(bench.folder / DATABASE, "SELECT count(*) FROM journal")[0][0] == 5
        other.execute("ROLLBACK")
        while ask(bench.folder / DATABASE, "SELECT count(*) FROM journal")[0][0]:
            await asyncio.sleep(0.01)
    other.close()
    assert caplog.text.count("stay in the journal") == 1
    await check_pages(bench, sent)


@pytest.mark.parametrize(("error", "code"), [(apsw.FullError, Code.STORAGE_FULL), (apsw.BusyError, Code.UNAVAILABLE)])
async def test_what_keeps_too_much_from_being_filed_is_what_writes_are_refused_for(
    ready: Bench, error: type[apsw.Error], code: Code
) -> None:
    assert isinstance(ready.store, SqliteStore)

    def step(_cursor: object, statement: str, _bindings: object) -> bool:
        if "INTO chunk" in statement:
            raise error("made up")
        return True

    ready.store._writer._connection.exec_trace = step
    rng = random.Random(5)
    most = filing.MOST * filing.RIPE
    for number in range(most):
        await ready.commit(some(rng, number))
    assert failures(ready.returned) == {None}
    await ready.commit(some(rng, most))  # tries to file, or is told what came of the last time
    assert ready.returned[-1].failure is code
    ready.store._writer._connection.exec_trace = None
    ready.clock.ahead += writer.RETRY_FILING
    await ready.commit(some(rng, most))
    assert ready.returned[-1].failure is None


async def test_a_clean_end_leaves_nothing_in_the_journal(ready: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the last sweep has filed what came after its beginning: a migration would take the rest for a crash's."""
    monkeypatch.setattr(committer, "LEISURE", 60.0)
    for _ in range(4):
        await ready.send(ANN, BOB)
        await ready.send(ANN, CAT)
    await ready.send(ANN, CAT, "into a sweep that is under way")
    await ready.close()
    assert ask(ready.folder / DATABASE, "SELECT count(*) FROM journal") == [(0,)]


async def test_whose_messages_were_removed_gets_nobody_elses(ready: Bench) -> None:
    """Somebody has cleared the last conversation by hand: neither its place in the tables nor its number are another one's."""
    await ready.send(ANN, BOB, "between Ann and Bob")
    await ready.send(ANN, CAT, "removed")
    await ready.send(ANN, CAT, "removed")
    await ready.close()
    connection = apsw.Connection(str(ready.folder / DATABASE))
    last = connection.execute("SELECT max(conversation) FROM dialog").get
    for table in ("chunk", "identity"):
        connection.execute(f"DELETE FROM {table} WHERE key >> {chunks.SEQ_BITS} = ?", (last,))
    connection.close(True)
    await ready.open()
    assert await _contents(ready, CAT, ANN) == []
    secret = await ready.send(BOB, CAT, "between Bob and Cat")
    mine = await ready.send(ANN, CAT, "between Ann and Cat")
    assert (secret.seq, mine.seq) == (1, 3)
    for _ in range(2):
        for me, peer in ((ANN, CAT), (ANN, BOB), (BOB, CAT)):
            for one, other in ((me, peer), (peer, me)):
                assert await _contents(ready, one, other) == [f"between {me.name} and {peer.name}"]
        await ready.close()
        await ready.open()


async def _contents(bench: Bench, me: User, peer: User) -> list[str]:
    """Of a conversation, which all ways to read it agree on."""
    page = await bench.store.history(me.id, peer.id, None, 0, 9)
    contents = [message.content for message in page.messages]
    for since in (None, 0):
        sync = await bench.store.sync(me.id, since, None, 9, 9, 9)
        assert [
            [message.content for message in each.messages] for each in sync.conversations if each.peer.id == peer.id
        ] == [contents]
    later = await bench.store.sync(me.id, 1, None, 9, 9, 9)
    for each in later.conversations:
        if each.peer.id == peer.id:
            assert [message.content for message in each.messages] in (contents, contents[1:])
    return contents


async def test_receipts_alone_are_filed_as_well(ready: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """However long nobody writes a message, and nobody is silent for long enough."""
    monkeypatch.setattr(filing, "RIPE_CHANGES", 20)
    monkeypatch.setattr(filing, "PORTION", 200 * (1 + PER_MESSAGE))
    monkeypatch.setattr(committer, "LEISURE", 60.0)
    await ready.commit(*(PendingMessage(ANN.id, BOB.id, f"id {number}", "x", None) for number in range(200)))
    longest = 0
    for seq in range(1, 200):
        await ready.mark(BOB, ANN, read=seq)
        longest = max(longest, ask(ready.folder / DATABASE, "SELECT count(*) FROM journal")[0][0])
    assert 15 < longest <= filing.MOST * 20 + 1
    page = await ready.store.sync(ANN.id, None, None, 9, 9, 9)
    assert page.conversations[0].theirs.read == 199


async def test_a_folder_of_the_first_schema(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    files = schema._files()
    bench.folder.mkdir()
    connection = apsw.Connection(str(bench.folder / DATABASE))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_files", lambda: files[:1])
        schema.migrate(connection, 0, {})
    schema.write(connection, "incarnation", "of then")
    for key, one in enumerate((BOB, ANN, CAT), 1):
        connection.execute("INSERT INTO person VALUES (?, ?, ?, NULL)", (key, one.id, one.name))
    for low, high, count in ((1, 2, 300), (2, 2, 3), (1, 3, 1)):
        for seq in range(1, count + 1):
            connection.execute(
                """INSERT INTO message (low, high, seq, rev, sender, id, at, sender_version, recipient_version, content)
                VALUES (?1, ?2, ?3, ?3, ?2, ?4, 5, ?3, ?3, ?5)""",
                (low, high, seq, f"id {seq * 7 % count}", f"text {seq}"),
            )
    for user, peer, seq, version in ((1, 2, 300, 300), (2, 1, 300, 300), (2, 2, 3, 303), (1, 3, 1, 301), (3, 1, 1, 1)):
        connection.execute("INSERT INTO dialog VALUES (?, ?, ?4, ?4, 0, 0, 0, 0, ?3)", (user, peer, version, seq))
    connection.close()
    await bench.open()
    page = await bench.store.history(ANN.id, BOB.id, None, 0, 1000)
    assert [(each.seq, each.content) for each in page.messages] == [(seq, f"text {seq}") for seq in range(1, 301)]
    retry = await bench.send(ANN, BOB, "text 3", "id 21")
    assert (retry.duplicate, retry.seq, retry.at) == (True, 3, 5)
    assert (await bench.send(BOB, ANN, "mine", "id 1")).seq == 301
    assert (await bench.send(ANN, ANN, "note")).seq == 4
    synced = await bench.store.sync(ANN.id, 303, None, 9, 9, 9)
    assert [(each.peer, each.seq, len(each.messages)) for each in synced.conversations] == [(ANN, 4, 1), (BOB, 301, 1)]
    assert (await bench.send(BOB, CAT, "first")).seq == 2
    assert len(set(ask(bench.folder / DATABASE, "SELECT conversation FROM dialog"))) == 3
