"""Who is connected where, as the nodes of one database see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cluster.postgres import Postgres
from duologue.store.postgres import PostgresStore
from duologue.store.postgres.connection import Connection
from tests.support.clock import SetClock

from .conftest import ANN, BOB, CAT

pytestmark = pytest.mark.asyncio

USERS = [ANN.id, BOB.id, CAT.id]
NEVER = 3600.0
DEAD = -1.0
"""A lease that has ended before it began: a node that has been silent for too long."""


async def _open(url: str) -> PostgresStore:
    return await PostgresStore.open(url, SetClock(), lambda batch: None, lambda error: None)


@pytest_asyncio.fixture(params=["database", "oldest_database"])
async def store(request: pytest.FixtureRequest) -> AsyncIterator[PostgresStore]:
    made = await _open(request.getfixturevalue(request.param))
    yield made
    await made.close()


async def test_somebody_is_online_while_some_node_has_them(store: PostgresStore) -> None:
    one, other = store.registry(NEVER), store.registry(NEVER)
    for node in (one, other):
        assert await node.renew([]) == {}
    await one.arrive([ANN.id, BOB.id])
    await other.arrive([BOB.id])
    await other.arrive([BOB.id])
    for node in (one, other):
        assert await node.online(USERS) == {ANN.id, BOB.id}
    await one.leave([ANN.id, BOB.id, CAT.id])
    assert await one.online(USERS) == {BOB.id}
    await other.leave([BOB.id])
    assert await one.online(USERS) == frozenset()


async def test_the_users_of_a_dead_node_are_taken_over_by_one_other(store: PostgresStore) -> None:
    dead, *living = store.registry(DEAD), *(store.registry(NEVER) for _ in range(4))
    for node in living:
        await node.renew([])
    await dead.renew([])
    await dead.arrive([ANN.id, BOB.id])
    await living[0].arrive([BOB.id])
    assert await living[1].online(USERS) == {BOB.id}
    taken = await asyncio.gather(*(node.renew([BOB.id] if node is living[0] else []) for node in living))
    assert sorted(len(each) for each in taken) == [0, 0, 0, 2]
    assert await living[1].online(USERS) == {BOB.id}


async def test_a_node_that_was_given_up_comes_back_with_all_its_users(store: PostgresStore) -> None:
    stalled, other = store.registry(NEVER), store.registry(NEVER)
    await stalled.renew([])
    await stalled.arrive([ANN.id])
    stalled._lease = DEAD
    await stalled.renew([ANN.id])  # the last sign of life of the time before
    await other.renew([])
    assert await other.online(USERS) == frozenset()
    stalled._lease = NEVER
    assert await stalled.renew([ANN.id, CAT.id]) == {ANN.id: 0, CAT.id: 0}
    assert await other.online(USERS) == {ANN.id, CAT.id}
    assert await stalled.renew([ANN.id, CAT.id]) == {}


async def test_whoever_stands_still_while_taking_over_a_dead_node_keeps_nobody_from_renewing(
    store: PostgresStore,
) -> None:
    dead, living = store.registry(DEAD), store.registry(NEVER)
    await dead.renew([])
    await dead.arrive([ANN.id])

    async def renew_beside(connection: Connection) -> dict[str, int]:
        await connection.execute("SELECT FROM duologue.node FOR UPDATE")
        return await living.renew([])

    assert await store._run(renew_beside, readonly=False) == {}
    assert list(await living.renew([])) == [ANN.id]


async def test_a_takeover_that_fails_costs_nobody_a_lease(store: PostgresStore) -> None:
    dead, living = store.registry(DEAD), store.registry(NEVER)
    await dead.renew([])
    await dead.arrive([ANN.id])

    async def renew_beside(connection: Connection) -> dict[str, int]:
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await connection.execute("SELECT FROM duologue.presence FOR UPDATE")
        return await living.renew([BOB.id])

    assert await store._run(renew_beside, readonly=False) == {BOB.id: 0}
    assert await living.online(USERS) == {BOB.id}
    assert list(await living.renew([BOB.id])) == [ANN.id]


async def test_the_time_of_a_dead_nodes_last_sign_of_life(store: PostgresStore) -> None:
    dead, other = store.registry(DEAD), store.registry(NEVER)
    await other.renew([])
    await dead.renew([])
    await dead.arrive([ANN.id])

    async def query(connection: object) -> int:
        return int(await connection.fetchval("SELECT extract(epoch FROM now()) * 1000"))  # type: ignore[attr-defined]

    now = await store._run(query, readonly=True)
    (at,) = (await other.renew([])).values()
    assert abs(at - now) < 10_000


async def test_who_leaves_in_peace_keeps_its_users_online_for_the_grace(store: PostgresStore) -> None:
    leaving, other = store.registry(NEVER), store.registry(NEVER)
    for node in (leaving, other):
        await node.renew([])
    await leaving.arrive([ANN.id])
    await leaving.retire(NEVER)
    assert await other.renew([]) == {}
    assert await other.online(USERS) == {ANN.id}
    await leaving.retire(-1.0)
    assert list(await other.renew([])) == [ANN.id]
    assert await other.online(USERS) == frozenset()


async def test_the_nodes_that_have_given_a_sign_of_life_lately(store: PostgresStore) -> None:
    one, *others = (store.registry(NEVER) for _ in range(4))
    dead, leaving, _ = others
    for node in (one, *others):
        await node.renew([])
    assert len({node.node for node in (one, *others)}) == 4
    assert await one.nodes() == {node.node for node in others}
    await leaving.retire(NEVER)
    assert await one.nodes() == {node.node for node in others}
    await leaving.retire(-1.0)
    dead._lease = DEAD
    await dead.renew([])
    assert await one.nodes() == {others[2].node}
    one._lease = DEAD  # whatever half of it is, those signs of life are older
    assert await one.nodes() == frozenset()


async def test_what_a_crash_of_the_database_empties_is_filled_again(own_postgres: Postgres) -> None:
    store = await _open(own_postgres.url)
    node = store.registry(NEVER)
    await node.renew([])
    await node.arrive([ANN.id])
    await asyncio.to_thread(own_postgres.kill)
    await asyncio.to_thread(own_postgres.start)
    assert await node.online(USERS) == frozenset()
    assert await node.renew([ANN.id]) == {ANN.id: 0}
    assert await node.online(USERS) == {ANN.id}
    await store.close()
