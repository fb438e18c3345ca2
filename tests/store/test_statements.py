"""How many statements a read takes, and how many steps: not more with a longer history (craft 13)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import apsw
import pytest

from duologue.domain.model import User
from duologue.domain.ports import PendingMessage
from duologue.store import committer
from duologue.store.sqlite import SqliteStore, filing, queries
from duologue.store.sqlite.connection import open_reader
from duologue.store.sqlite.young import Known

from .conftest import ANN, BOB, CAT, Bench

pytestmark = pytest.mark.asyncio


def _cost(bench: Bench, query: Callable[[apsw.Connection], object]) -> tuple[int, int]:
    """Statements, and SQLite's machine steps in hundreds."""
    statements: list[str] = []
    steps = [0]

    def tick() -> bool:
        steps[0] += 1
        return False

    connection = open_reader(bench.folder / "messages.db", 1)
    query(connection)  # once to load the schema
    connection.exec_trace = lambda _, statement, __: statements.append(statement) is None
    connection.set_progress_handler(tick, 100)
    query(connection)
    connection.close()
    return len(statements), steps[0]


NONE: dict[str, dict[str, Known]] = {user.id: {} for user in (ANN, BOB, CAT)}
"""Nothing is young once the store was closed."""


async def test_reads_take_a_fixed_number_of_statements(ready: Bench) -> None:
    await ready.commit(*(PendingMessage(ANN.id, u.id, f"m{n}", "x", None) for n in range(200) for u in (ANN, BOB, CAT)))
    await ready.close()
    assert _cost(ready, lambda c: queries.sync(c, NONE, ANN.id, None, None, 50, 50, 500))[0] == 3
    assert _cost(ready, lambda c: queries.sync(c, NONE, ANN.id, 5, None, 50, 50, 500))[0] == 4
    assert _cost(ready, lambda c: queries.sync(c, NONE, ANN.id, 590, None, 50, 50, 500))[0] == 3
    assert _cost(ready, lambda c: queries.roster(c, NONE, ANN.id, 10, 10, 50, 500))[0] == 4
    assert _cost(ready, lambda c: queries.roster(c, NONE, ANN.id, 1, 10, 50, 500))[0] == 5
    assert _cost(ready, lambda c: queries.history(c, NONE, ANN.id, BOB.id, None, None, 50))[0] == 4
    assert _cost(ready, lambda c: queries.peers(c, NONE, [ANN.id], 10))[0] == 2


async def test_a_reconnect_costs_the_same_after_a_hundred_times_the_history(ready: Bench) -> None:
    costs = []
    for size in (200, 20_000):
        have = len(ready.returned)
        await ready.commit(*(PendingMessage(ANN.id, BOB.id, f"m{n}", "x", None) for n in range(have, size)))
        await ready.close()
        costs.append(
            _cost(ready, lambda c, since=size - 10: queries.sync(c, NONE, BOB.id, since, None, 50, 50, 500))[1]
        )
        await ready.open()
    assert costs[1] <= costs[0] + 5


async def test_a_long_absence_is_found_in_few_steps(ready: Bench) -> None:
    """Where the new messages begin, halfway back in a long conversation."""
    await ready.commit(*(PendingMessage(ANN.id, BOB.id, f"m{n}", "x", None) for n in range(20_000)))
    await ready.close()
    short = _cost(ready, lambda c: queries.sync(c, NONE, BOB.id, 19_990, None, 50, 50, 500))[1]
    assert _cost(ready, lambda c: queries.sync(c, NONE, BOB.id, 10_000, None, 50, 50, 500))[1] <= short + 20


async def test_a_page_costs_the_same_however_many_of_ones_conversations_are_young(
    ready: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of somebody to whom everybody writes, some conversations in the tables and many in memory."""
    monkeypatch.setattr(filing, "RIPE", 10**6)
    monkeypatch.setattr(committer, "LEISURE", 0.0)
    crowd = [User(f"{number:016x}", f"user {number}") for number in range(1_000)]
    await asyncio.gather(*(ready.store.create_guest(user, user.id.encode()) for user in crowd))
    for text in ("filed", "young"):
        if text == "young":
            await ready.close()
            monkeypatch.setattr(committer, "LEISURE", 60.0)
            await ready.open()
        for start in range(0, 1_000, 500):
            some = crowd[start : start + 500]
            await ready.commit(*(PendingMessage(user.id, ANN.id, text, text, None) for user in some))
    assert isinstance(ready.store, SqliteStore)
    young = ready.store._writer._young
    assert len(young.of(ANN.id)) == 1_000
    few = dict(list(young.of(ANN.id).items())[-60:])
    costs = [
        _cost(ready, lambda c, known=known: queries.sync(c, {ANN.id: known}, ANN.id, None, None, 50, 1, 500))
        for known in (few, young.of(ANN.id))
    ]
    assert costs[0][0] == costs[1][0]
    assert costs[1][1] <= costs[0][1] + 20
    page = await ready.store.sync(ANN.id, None, None, 50, 1, 500)
    assert [each.peer for each in page.conversations] == crowd[:-51:-1]
    assert {each.messages[0].content for each in page.conversations} == {"young"}
