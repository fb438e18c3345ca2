"""The identities of long conversations, which go to a small table first and move on from there many at once."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import apsw
import pytest

from duologue.domain.errors import Code
from duologue.domain.ports import PendingMessage
from duologue.store.sqlite import filing, identities
from duologue.store.sqlite.chunks import SEQ_BITS
from tests.support.clock import SetClock

from .conftest import ANN, BOB, CAT
from .one_thread import OneThread

LONG, RECENT = 20, 8


def messages(rng: random.Random, first: int, count: int, peer: str = BOB.id) -> list[PendingMessage]:
    found = []
    for number in range(first, first + count):
        sender, recipient = rng.sample([ANN.id, peer], 2)
        found.append(PendingMessage(sender, recipient, f"{rng.getrandbits(128):032x}", f"{number}", None))
    return found


def again(message: PendingMessage, content: str | None = None) -> PendingMessage:
    return PendingMessage(message.sender, message.recipient, message.id, content or message.content, None)


def file_all(store: OneThread) -> None:
    while store.writer.leisure() == 0.0:
        pass


def seqs(store: OneThread, table: str) -> list[int]:
    found: Any = store.writing.execute(f"SELECT seq FROM {table} WHERE key >> {SEQ_BITS} = 1 ORDER BY seq")
    return [seq for (seq,) in found]


def test_each_is_in_one_place_and_found_there(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identities, "LONG", LONG)
    monkeypatch.setattr(identities, "RECENT", RECENT)
    store = OneThread(tmp_path / "data", SetClock())
    store.add(ANN, BOB, CAT)
    sent: list[PendingMessage] = []
    most = 0
    while len(sent) < 10 * LONG:
        fresh = messages(rng, len(sent), rng.randrange(1, RECENT))
        store.writer.write(fresh)
        sent += fresh
        if rng.random() < 0.7:
            file_all(store)
            settled, recent = seqs(store, "identity"), seqs(store, "recent_identity")
            assert settled + recent == list(range(1, len(sent) + 1))
            assert recent == [] or len(sent) > LONG
            most = max(most, len(recent))
        known = rng.choice(sent)
        retry, other = again(known), again(known, "another text")
        store.writer.write([retry, other])
        assert (retry.duplicate, retry.seq, other.failure) == (True, known.seq, Code.CONFLICT)
        if rng.random() < 0.1:
            store.close()
            store = OneThread(tmp_path / "data", SetClock())
    assert 0 < most <= 2 * RECENT
    retries = [again(each) for each in sent]
    store.writer.write(retries)
    assert [(each.duplicate, each.seq) for each in retries] == [(True, each.seq) for each in sent]
    store.close()


def test_a_long_conversation_writes_no_more_pages_than_a_short_one(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filing, "PORTION", 70_000)  # one commit
    store = OneThread(tmp_path / "data", SetClock())
    store.add(ANN, BOB, CAT)
    for first in range(0, 20_000, 1_000):
        store.writer.write(messages(rng, first, 1_000))
        file_all(store)
    store.writer.write(messages(rng, 0, 1_000, CAT.id))
    file_all(store)
    written = []
    for peer in (CAT.id, BOB.id):
        store.writing.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        store.writer.write(messages(rng, 0, 64, peer))
        file_all(store)
        written.append(store.writer._wal.pages)
    short, long = written
    assert long <= short + 10, "each of its 64 identities is on a page of its own"
    store.close()
