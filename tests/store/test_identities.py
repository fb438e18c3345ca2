"""A retry finds its first attempt wherever that is by now: in memory, on its way into the table, in it, or on disk only."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import apsw
import pytest

from duologue.domain.errors import Code
from duologue.domain.ports import PendingMessage
from duologue.store.sqlite import identities, schema
from duologue.store.sqlite.files import DATABASE

from .conftest import ANN, BOB, CAT, Bench

pytestmark = pytest.mark.asyncio

PEOPLE = (ANN, BOB, CAT)


def some(rng: random.Random, number: int) -> PendingMessage:
    sender, recipient = rng.sample(PEOPLE, 2)
    return PendingMessage(sender.id, recipient.id, f"{rng.getrandbits(64):x} {number}", f"text {number}", None)


def again(first: PendingMessage, content: str | None = None) -> PendingMessage:
    return PendingMessage(first.sender, first.recipient, first.id, content or first.content, None)


def ask(path: Path, query: str) -> object:
    connection = apsw.Connection(str(path))
    try:
        return connection.execute(query).get
    finally:
        connection.close()


@pytest.mark.parametrize("young", [1, 7, 50, 10_000])
async def test_any_message_sent_again_at_any_time(ready: Bench, monkeypatch: pytest.MonkeyPatch, young: int) -> None:
    monkeypatch.setattr(identities, "MAX_YOUNG", young)
    await ready.close()
    rng = random.Random(young)
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
        assert not any(message.duplicate or message.failure for message in sent)
        if life % 2:
            await ready.close()
        else:  # as after a power cut: what is on disk, without a clean end
            copy = ready.folder.with_name(f"{ready.folder.name}-{life}")
            shutil.copytree(ready.folder, copy)
            await ready.close()
            ready.place = copy
    count = ask(ready.folder / DATABASE, "SELECT count(*) FROM message JOIN identity ON message = key")
    assert count == len(sent)
    await ready.open()
    retries = [again(message) for message in sent]
    await ready.commit(*retries)
    assert [(message.seq, message.duplicate) for message in retries] == [(message.seq, True) for message in sent]


async def test_a_batch_that_failed_leaves_none(ready: Bench) -> None:
    rng = random.Random(1)
    first = [some(rng, number) for number in range(20)]
    await ready.commit(*first)
    other = apsw.Connection(str(ready.folder / DATABASE))
    other.execute("BEGIN IMMEDIATE")
    refused = [some(rng, number) for number in range(20, 30)]
    await ready.commit(*refused)
    assert {message.failure for message in refused} == {Code.UNAVAILABLE}
    other.execute("ROLLBACK")
    other.close()
    retries = [again(message) for message in refused]
    await ready.commit(*retries, *map(again, first))
    assert not any(message.duplicate or message.failure for message in retries)
    assert sum(message.duplicate for message in ready.returned if isinstance(message, PendingMessage)) == len(first)


async def test_a_folder_of_the_first_schema(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    files = schema._files()
    bench.folder.mkdir()
    connection = apsw.Connection(str(bench.folder / DATABASE))
    with monkeypatch.context() as patch:
        patch.setattr(schema, "_files", lambda: files[:1])
        schema.migrate(connection, 0)
    schema.write(connection, "incarnation", "of then")
    for key, user in enumerate((BOB, ANN), 1):
        connection.execute("INSERT INTO person VALUES (?, ?, ?, NULL)", (key, user.id, user.name))
    for seq in range(1, 21):
        connection.execute(
            """INSERT INTO message (low, high, seq, rev, sender, id, at, sender_version, recipient_version, content)
            VALUES (1, 2, ?1, ?1, 2, ?2, 5, ?1, ?1, ?3)""",
            (seq, f"id {seq * 7 % 20}", f"text {seq}"),
        )
    for side in ((1, 2), (2, 1)):
        connection.execute("INSERT INTO dialog VALUES (?, ?, 20, 20, 0, 0, 0, 0, 20)", side)
    connection.close()
    await bench.open()
    page = await bench.store.history(ANN.id, BOB.id, None, 0, 100)
    assert [(each.seq, each.content) for each in page.messages] == [(seq, f"text {seq}") for seq in range(1, 21)]
    retry = await bench.send(ANN, BOB, "text 3", "id 1")
    assert (retry.duplicate, retry.seq, retry.at) == (True, 3, 5)
    assert (await bench.send(BOB, ANN, "mine", "id 1")).seq == 21
