"""What the filter lets pass unseen is in no table: an identity that it missed would be a message stored twice."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from duologue.domain.ports import PendingMessage
from duologue.store.sqlite import identities, identity_filter, schema, writer
from duologue.store.sqlite.chunked import CODE
from duologue.store.sqlite.identity_filter import IdentityFilter
from tests.support.clock import SetClock

from .conftest import ANN, BOB, CAT, Bench
from .one_thread import OneThread
from .test_recent_identities import again, file_all, messages

TABLES = ("recent_identity", "identity")


@pytest.fixture
def connection() -> Iterator[apsw.Connection]:
    connection = apsw.Connection(":memory:")
    schema.migrate(connection, 0, CODE)
    yield connection
    connection.close()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters that grow a few times within a test."""
    monkeypatch.setattr(identity_filter, "LEAST", 5)
    monkeypatch.setattr(identity_filter, "MOST", 14)


def in_tables(connection: apsw.Connection) -> list[int]:
    found: Any = connection.execute(" UNION ALL ".join(f"SELECT key FROM {table}" for table in TABLES))
    return [key for (key,) in found]


def insert(connection: apsw.Connection, table: str, keys: list[int]) -> None:
    connection.executemany(f"INSERT OR IGNORE INTO {table} VALUES (?, 1)", [(key,) for key in keys])


def fill(each: IdentityFilter, portion: int = 1_000) -> None:
    while each.learning:
        each.learn(portion)


def new_keys(rng: random.Random, count: int, bits: int = 32) -> list[int]:
    """Of three conversations; with few bits some are neighbours."""
    return [rng.randrange(1, 4) << 32 | rng.getrandbits(bits) for _ in range(count)]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("turn", range(20))
def test_whatever_is_filed_and_moved_while_it_is_filled(
    connection: apsw.Connection, rng: random.Random, turn: int
) -> None:
    for table in TABLES:
        insert(connection, table, new_keys(rng, rng.randrange(200), bits=10))
    each = IdentityFilter(connection)
    for _ in range(300):
        match rng.randrange(5):
            case 0:
                keys = new_keys(rng, rng.randrange(8), bits=10)
                each.add(keys)
                insert(connection, rng.choice(TABLES), keys)
            case 1:
                conversation = rng.randrange(1, 4)
                bounds = (conversation << 32, conversation + 1 << 32)
                connection.execute(
                    "INSERT OR IGNORE INTO identity SELECT * FROM recent_identity WHERE key >= ? AND key < ?", bounds
                )
                connection.execute("DELETE FROM recent_identity WHERE key >= ? AND key < ?", bounds)
            case _:
                each.learn(rng.randrange(1, 30))
        there = in_tables(connection)
        assert list(each.candidates(there)) == there
    fill(each)
    assert each._whole is not None
    assert each._whole.power > identity_filter.LEAST


def test_it_knows_most_of_what_is_new(connection: apsw.Connection, rng: random.Random) -> None:
    there = new_keys(rng, 30_000)
    insert(connection, "identity", there)
    each = IdentityFilter(connection)
    fresh = new_keys(rng, 10_000)
    assert list(each.candidates(fresh)) == fresh, "it can't know yet"
    fill(each)
    assert len(each.candidates(fresh)) < 10_000 / identity_filter.CROWDED
    assert list(each.candidates(there)) == there
    more = new_keys(rng, 60_000)
    each.add(more)
    assert each.learning, "it's too small by now"
    insert(connection, "identity", more)
    fill(each)
    assert len(each.candidates(fresh)) < 10_000 / identity_filter.CROWDED
    assert list(each.candidates(there + more)) == there + more


@pytest.mark.usefixtures("small")
def test_it_has_an_end(connection: apsw.Connection, rng: random.Random) -> None:
    there = new_keys(rng, 20_000)
    insert(connection, "identity", there)
    each = IdentityFilter(connection)
    fill(each)
    assert each._whole is not None
    assert each._whole.power == identity_filter.MOST
    each.add(new_keys(rng, 10_000))
    assert not each.learning, "it can't grow any more"
    assert list(each.candidates(there)) == there


@pytest.mark.usefixtures("small")
def test_retries_at_any_moment(tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all of the writer: the journal, moves from table to table, and starts after which it's to be filled again."""
    monkeypatch.setattr(identities, "LONG", 20)
    monkeypatch.setattr(identities, "RECENT", 8)
    monkeypatch.setattr(writer, "LEARNED_AT_ONCE", (2, 5))
    monkeypatch.setattr(writer, "LEARNED_PER_NEW", 1)
    store = OneThread(tmp_path / "data", SetClock())
    store.add(ANN, BOB, CAT)
    sent: list[PendingMessage] = []
    for _ in range(150):
        fresh = messages(rng, len(sent), rng.randrange(1, 8), rng.choice((BOB.id, CAT.id)))
        retries = [again(each) for each in rng.sample(sent, min(len(sent), 5))]
        first = {each.id: each for each in sent}
        batch = rng.sample([*fresh, *retries], len(fresh) + len(retries))
        store.writer.write(batch)
        store.writer.rest(len(batch))
        assert not any(each.duplicate for each in fresh)
        assert [(each.duplicate, each.seq) for each in retries] == [(True, first[each.id].seq) for each in retries]
        sent += fresh
        if rng.random() < 0.5:
            file_all(store)
        if rng.random() < 0.1:
            store.close()
            store = OneThread(tmp_path / "data", SetClock())
    while store.writer.leisure() is not None:
        pass
    assert not store.writer._identities.filter.learning
    retries = [again(each) for each in sent]
    store.writer.write(retries)
    assert [(each.duplicate, each.seq) for each in retries] == [(True, each.seq) for each in sent]
    store.close()


def test_new_messages_cost_no_look_at_the_tables(tmp_path: Path, rng: random.Random) -> None:
    store = OneThread(tmp_path / "data", SetClock())
    store.add(ANN, BOB, CAT)
    sent = messages(rng, 0, 500)
    store.writer.write(sent)
    asked: list[str] = []

    def note(_: apsw.Cursor, statement: str, __: object) -> bool:
        asked.append(statement)
        return True

    store.writing.exec_trace = note
    store.writer.write(messages(rng, 500, 20))
    assert identities._KNOWN in asked, "it isn't whole yet"
    while store.writer.leisure() is not None:
        pass
    looks = 0
    for number in range(520, 540):
        asked.clear()
        store.writer.write(messages(rng, number, 1))
        looks += identities._KNOWN in asked
    assert looks < 6, "each of them has its bit set by chance, one in five hundred"
    asked.clear()
    store.writer.write([again(sent[0])])
    assert identities._KNOWN in asked
    store.writing.exec_trace = None
    store.close()


def test_it_leaves_time_to_those_who_come_back(
    tmp_path: Path, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "LEARNED_AT_ONCE", (1, 5))
    store = OneThread(tmp_path / "data", SetClock())
    store.add(ANN, BOB)
    store.writer.write(messages(rng, 0, 20))
    file_all(store)
    assert store.writer._identities.filter.learning
    assert store.writer.leisure() == writer.LEAST_REST
    store.close()


@pytest.mark.asyncio
async def test_it_is_filled_before_anybody_writes(
    bench: Bench, rng: random.Random, monkeypatch: pytest.MonkeyPatch
) -> None:
    await bench.open()
    await bench.people(ANN, BOB)
    await bench.commit(*messages(rng, 0, 50))
    await bench.close()
    whole = threading.Event()
    learn = IdentityFilter.learn

    def noted(each: IdentityFilter, count: int) -> None:
        learn(each, count)
        if not each.learning:
            whole.set()

    monkeypatch.setattr(IdentityFilter, "learn", noted)
    await bench.open()
    assert await asyncio.to_thread(whole.wait, 10)
