"""How many statements a read takes, and how many steps: not more with a longer history (craft 13)."""

from __future__ import annotations

from collections.abc import Callable

import apsw
import pytest

from duologue.domain.ports import PendingMessage
from duologue.store.sqlite import queries
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


NONE: dict[str, list[Known]] = {user.id: [] for user in (ANN, BOB, CAT)}
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
    assert _cost(ready, lambda c: queries.peers(c, NONE, ANN.id, 10))[0] == 2


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
