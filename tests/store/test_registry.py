"""Who is connected where, as the nodes of one database see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cluster.postgres import Postgres
from duologue.domain.ports import Renewal
from duologue.store.postgres import PostgresStore, writer
from duologue.store.postgres.connection import Connection
from duologue.store.postgres.keys import user_key
from tests.support.clock import SetClock
from tests.support.proxy import Proxy

from .conftest import ANN, BOB, CAT
from .nodes import session, until_waiting_for_a_lock

pytestmark = pytest.mark.asyncio

USERS = [ANN.id, BOB.id, CAT.id]
NEVER = 3600.0
NOTHING = Renewal(frozenset(), frozenset())
LATER = 2**45
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
        assert await node.renew([]) == NOTHING
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
    assert sorted(len(each.taken_over) for each in taken) == [0, 0, 0, 2]
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
    assert (await stalled.renew([ANN.id, CAT.id])).anew == {ANN.id, CAT.id}
    assert await other.online(USERS) == {ANN.id, CAT.id}
    assert await stalled.renew([ANN.id, CAT.id]) == NOTHING


async def test_whoever_stands_still_while_taking_over_a_dead_node_keeps_nobody_from_renewing(
    store: PostgresStore,
) -> None:
    dead, living = store.registry(DEAD), store.registry(NEVER)
    await dead.renew([])
    await dead.arrive([ANN.id])

    async def renew_beside(connection: Connection) -> Renewal:
        await connection.execute("SELECT FROM duologue.node FOR UPDATE")
        return await living.renew([])

    assert await store._run(renew_beside, readonly=False) == NOTHING
    assert (await living.renew([])).taken_over == {ANN.id}


async def test_a_takeover_that_fails_costs_nobody_a_lease(store: PostgresStore) -> None:
    dead, living = store.registry(DEAD), store.registry(NEVER)
    await dead.renew([])
    await dead.arrive([ANN.id])

    async def renew_beside(connection: Connection) -> Renewal:
        await connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        await connection.execute("SELECT FROM duologue.presence FOR UPDATE")
        return await living.renew([BOB.id])

    assert await store._run(renew_beside, readonly=False) == Renewal(frozenset([BOB.id]), frozenset())
    assert await living.online(USERS) == {BOB.id}
    assert (await living.renew([BOB.id])).taken_over == {ANN.id}


async def test_the_users_of_a_dead_node_were_last_seen_at_its_last_sign_of_life(store: PostgresStore) -> None:
    for user in (ANN, BOB):
        await store.create_guest(user, user.id.encode())
    dead, older, other = store.registry(DEAD), store.registry(DEAD), store.registry(NEVER)
    for node in (other, older, dead):
        await node.renew([])
    await older.arrive([ANN.id])
    await dead.arrive([ANN.id, BOB.id, CAT.id])  # Cat is nobody yet
    await store.seen([BOB.id], LATER)
    times = await _last_signs_of_life(store)
    assert (await other.renew([])).taken_over == {ANN.id, BOB.id, CAT.id}
    assert await _last_seen(store) == {ANN.id: times[dead.node], BOB.id: LATER}


async def test_the_answer_to_a_takeover_is_lost(database: str, postgres: Postgres) -> None:
    """Nobody else will ever take those users over, so when they were last seen has to be in that commit."""
    async with Proxy(postgres.port) as proxy:
        store = await _open(database.replace(str(postgres.port), str(proxy.port)))
        await store.create_guest(ANN, b"hash")
        dead, other = store.registry(DEAD), store.registry(NEVER)
        await other.renew([])
        await dead.renew([])
        await dead.arrive([ANN.id])
        times = await _last_signs_of_life(store)
        proxy.to_client.cut_before = b"COMMIT"
        assert await other._take_over() == frozenset()
        assert await _last_seen(store) == {ANN.id: times[dead.node]}
        await store.close()


async def test_a_takeover_and_a_batch_of_the_same_people_wait_for_each_other(database: str) -> None:
    """Whoever locked them in another order would meet the batch in the middle, and one of the two would fail."""
    store = await _open(database)
    for user in (ANN, BOB, CAT):
        await store.create_guest(user, user.id.encode())
    dead, other = store.registry(DEAD), store.registry(NEVER)
    async with session(database) as holder, session(database) as batch:
        await other.renew([])
        await dead.renew([])
        for user in (CAT, ANN, BOB):
            await dead.arrive([user.id])
        keys = [user_key(user) for user in USERS]
        await holder.execute("BEGIN")
        await holder.fetch(writer._LOCK, keys[1:2])
        await batch.execute("BEGIN")
        locking = asyncio.create_task(batch.fetch(writer._LOCK, keys))
        await until_waiting_for_a_lock(holder, 1)
        takeover = asyncio.create_task(other.renew([]))
        await until_waiting_for_a_lock(holder, 2)
        await holder.execute("COMMIT")
        await locking  # it would raise if it had been chosen to give way
        await batch.execute("COMMIT")
        assert (await takeover).taken_over == set(USERS)
    await store.close()


async def _last_signs_of_life(store: PostgresStore) -> dict[str, int]:
    """Of each node, in milliseconds since the Unix epoch."""

    async def query(connection: Connection) -> dict[str, int]:
        rows = await connection.fetch("SELECT id, (extract(epoch FROM seen) * 1000)::bigint FROM duologue.node")
        return {str(node): int(at) for node, at in rows}

    return await store._run(query, readonly=True)


async def _last_seen(store: PostgresStore) -> dict[str, int]:
    return {person.user.id: person.last_seen for person in await store.people(USERS)}


async def test_who_leaves_in_peace_keeps_its_users_online_for_the_grace(store: PostgresStore) -> None:
    leaving, other = store.registry(NEVER), store.registry(NEVER)
    for node in (leaving, other):
        await node.renew([])
    await leaving.arrive([ANN.id])
    await leaving.retire(NEVER)
    assert await other.renew([]) == NOTHING
    assert await other.online(USERS) == {ANN.id}
    await leaving.retire(-1.0)
    assert (await other.renew([])).taken_over == {ANN.id}
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
    assert (await node.renew([ANN.id])).anew == {ANN.id}
    assert await node.online(USERS) == {ANN.id}
    await store.close()
