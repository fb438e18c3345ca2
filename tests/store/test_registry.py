"""Who is connected where, as the nodes of one database see it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from cluster.postgres import Postgres
from duologue.domain.errors import Refusal
from duologue.domain.model import User
from duologue.domain.ports import Renewal
from duologue.store.postgres import PostgresStore, registry, writer
from duologue.store.postgres import connection as connection_module
from duologue.store.postgres import store as store_module
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
THEIR_ANSWER = b"SELECT 1"
"""On the wire, the end of the answer to a portion of one person."""


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


@pytest.mark.parametrize("pause", [0.01, NEVER])
async def test_a_node_that_comes_back_hears_of_it_though_the_answer_was_lost(
    database: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, pause: float
) -> None:
    """From the second attempt, or at the next beat if there was none. Else nobody would say that its people are back."""
    monkeypatch.setattr(store_module, "RETRY_PAUSE", pause)
    async with Proxy(postgres.port) as proxy, session(database) as observer:
        store = await _open(database.replace(str(postgres.port), str(proxy.port)))
        stalled, other = store.registry(DEAD), store.registry(NEVER)
        await stalled.renew([ANN.id])
        assert (await other.renew([])).taken_over == {ANN.id}
        stalled._lease = NEVER
        proxy.to_client.cut_before = b"COMMIT"
        renewal = asyncio.create_task(stalled.renew([ANN.id]))
        if pause == NEVER:
            while not await observer.fetchval("SELECT count(*) FROM duologue.presence"):
                await asyncio.sleep(0.01)
            renewal.cancel()
            await asyncio.wait([renewal])
            renewal = asyncio.create_task(stalled.renew([ANN.id]))
        assert await renewal == Renewal(frozenset([ANN.id]), frozenset())
        assert await stalled.renew([ANN.id]) == NOTHING
        await store.close()


async def test_nobody_arrives_at_a_node_that_was_given_up(store: PostgresStore) -> None:
    """Nobody would ever take them over: the node's row, by which that's found, is gone."""
    stalled, other = store.registry(DEAD), store.registry(NEVER)
    with pytest.raises(Refusal):
        await stalled.arrive([ANN.id])
    await stalled.renew([])
    await _bury(other)
    with pytest.raises(Refusal):
        await stalled.arrive([ANN.id])
    assert await _rows(store) == (1, 0)
    await stalled.renew([ANN.id])
    assert await _rows(store) == (2, 1)
    assert (await other.renew([])).taken_over == {ANN.id}


async def test_an_arrival_and_a_takeover_wait_for_each_other(database: str) -> None:
    """Whoever arrived unseen by those who took over would stay when the node's row is gone."""
    store = await _open(database)
    stalled, other = store.registry(DEAD), store.registry(NEVER)
    await other.renew([])
    await stalled.renew([])
    async with session(database) as holder:
        await holder.execute("BEGIN")
        await holder.fetch(registry._ARRIVE, [user_key(ANN.id)], stalled.node)
        await _bury(other)
        assert await _rows(store) == (2, 0)
        await holder.execute("COMMIT")
        assert (await other.renew([])).taken_over == {ANN.id}

        await stalled.renew([])
        await holder.execute("BEGIN")
        await holder.fetch(registry._TAKE_OVER, other.node, registry.PORTION)
        arrival = asyncio.create_task(stalled.arrive([ANN.id]))
        await until_waiting_for_a_lock(holder, 1)
        await holder.execute("COMMIT")
        with pytest.raises(Refusal):
            await arrival
    await _bury(other)
    assert await _rows(store) == (1, 0)
    await store.close()


async def test_the_row_of_a_dead_node_stays_until_nobody_can_arrive_any_more(store: PostgresStore) -> None:
    """Also when the first look finds nobody: somebody may arrive while it looks."""
    dead, other = store.registry(DEAD), store.registry(NEVER)
    await other.renew([])
    await dead.renew([])
    await other.renew([])
    assert await _rows(store) == (2, 0)
    with pytest.raises(Refusal):
        await dead.arrive([ANN.id])
    await other.renew([])
    assert await _rows(store) == (1, 0)


async def test_a_dead_node_is_taken_over_in_portions(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each person is spoken for, and was last seen, at the commit that takes them; none of the others is online meanwhile."""
    for user in (ANN, BOB, CAT):
        await store.create_guest(user, user.id.encode())
    monkeypatch.setattr(registry, "PORTION", 1)
    monkeypatch.setattr(registry, "TAKE_OVER_SHARE", 0.0)
    dead, *living = store.registry(DEAD), store.registry(NEVER), store.registry(NEVER)
    for node in (*living, dead):
        await node.renew([])
    await dead.arrive(USERS)
    seen = (await _last_signs_of_life(store))[dead.node]
    taken: set[str] = set()
    for number in range(1, 4):
        portion = (await living[number % 2].renew([])).taken_over
        assert len(portion) == 1
        assert not portion & taken
        taken |= portion
        assert {user for user, at in (await _last_seen(store)).items() if at == seen} == taken
        assert await living[0].online(USERS) == frozenset()
        assert await _rows(store) == (3, 3 - number)
    assert await living[0].renew([]) == NOTHING
    assert await _rows(store) == (2, 0)


async def test_a_renewal_takes_over_as_many_portions_as_there_are(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "PORTION", 1)
    dead, older, *living = (store.registry(NEVER) for _ in range(5))
    for node in living:
        await node.renew([])
    await dead.renew(USERS)
    await older.renew([ANN.id, BOB.id])
    for node in (dead, older):
        await node.retire(DEAD)
    taken = await asyncio.gather(*(node.renew([]) for node in living))
    assert frozenset().union(*(each.taken_over for each in taken)) == set(USERS)
    assert await _rows(store) == (3, 0)


async def test_a_node_that_comes_back_between_two_portions_has_all_its_users(
    store: PostgresStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "PORTION", 1)
    monkeypatch.setattr(registry, "TAKE_OVER_SHARE", 0.0)
    stalled, other = store.registry(DEAD), store.registry(NEVER)
    await other.renew([])
    await stalled.renew(USERS)
    assert len((await other.renew([])).taken_over) == 1
    with pytest.raises(Refusal):
        await stalled.arrive(USERS)
    await stalled.retire(NEVER)
    assert await other.online(USERS) == frozenset()
    stalled._lease = NEVER
    assert (await stalled.renew(USERS)).anew == set(USERS)
    assert await other.renew([]) == NOTHING
    assert await other.online(USERS) == set(USERS)
    assert await stalled.renew(USERS) == NOTHING


async def test_what_was_taken_over_before_a_portion_failed_is_told(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "PORTION", 1)
    monkeypatch.setitem(connection_module._SETTINGS, "lock_timeout", "200")
    store = await _open(database)
    for user in (ANN, BOB, CAT):
        await store.create_guest(user, user.id.encode())
    dead, other = store.registry(DEAD), store.registry(NEVER)
    await other.renew([])
    await dead.renew([])
    for user in (ANN, BOB, CAT):
        await dead.arrive([user.id])
    async with session(database) as holder:
        await holder.execute("BEGIN")
        await holder.fetch(writer._LOCK, [user_key(CAT.id)])
        before = (await other.renew([])).taken_over
    assert before == {ANN.id, BOB.id}
    assert (await other.renew([])).taken_over == {CAT.id}
    await store.close()


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
    dead, older, other = (store.registry(NEVER) for _ in range(3))
    await other.renew([])
    await older.renew([ANN.id])
    await dead.renew([ANN.id, BOB.id, CAT.id])  # Cat is nobody yet
    for node in (older, dead):
        await node.retire(DEAD)
    await store.seen([BOB.id], LATER)
    times = await _last_signs_of_life(store)
    assert (await other.renew([])).taken_over == {ANN.id, BOB.id, CAT.id}
    assert await _last_seen(store) == {ANN.id: times[dead.node], BOB.id: LATER}


async def test_the_answer_to_a_portion_is_lost(
    database: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else will ever take that portion over, so when they were last seen has to be in that commit."""
    monkeypatch.setattr(registry, "PORTION", 1)
    async with Proxy(postgres.port) as proxy:
        store = await _open(database.replace(str(postgres.port), str(proxy.port)))
        dead, other = store.registry(DEAD), store.registry(NEVER)
        await other.renew([])
        await dead.renew([])
        for user in (ANN, BOB, CAT):
            await store.create_guest(user, user.id.encode())
            await dead.arrive([user.id])
        times = await _last_signs_of_life(store)
        proxy.to_client.cut_before = THEIR_ANSWER
        assert await other._take_over() == {BOB.id, CAT.id}
        assert await _last_seen(store) == dict.fromkeys(USERS, times[dead.node])
        await store.close()


async def test_whoever_is_cut_off_while_taking_over_holds_nobody_up(database: str, postgres: Postgres) -> None:
    """The portion is committed without another word from that node; else its people's messages would wait for the server to
    end the transaction."""
    async with Proxy(postgres.port) as proxy, session(database) as observer:
        store = await _open(database.replace(str(postgres.port), str(proxy.port)))
        await store.create_guest(ANN, b"hash")
        dead, other = store.registry(DEAD), store.registry(NEVER)
        await other.renew([])
        await dead.renew([ANN.id])
        proxy.to_client.hold_before = THEIR_ANSWER
        takeover = asyncio.create_task(other._take_over())
        async with asyncio.timeout(connection_module.ABANDONED_TIMEOUT / 2):
            while await observer.fetchval("SELECT count(*) FROM duologue.presence"):
                await asyncio.sleep(0.01)
        await observer.fetch(f"{writer._LOCK} NOWAIT", [user_key(ANN.id)])
        proxy.to_client.release()
        assert await takeover == {ANN.id}
        await store.close()


async def test_a_takeover_and_a_batch_of_the_same_people_wait_for_each_other(database: str) -> None:
    """Whoever locked them in another order would meet the batch in the middle, and one of the two would fail."""
    store = await _open(database)
    # So many, written down in such an order, that no plan has them in order by chance.
    users = [f"{number:016x}" for number in range(50)]
    for user in reversed(users):
        await store.create_guest(User(user, "somebody"), user.encode())
    dead, other = store.registry(DEAD), store.registry(NEVER)
    async with session(database) as holder, session(database) as batch:
        await other.renew([])
        await dead.renew(users)
        keys = [user_key(user) for user in users]
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
        assert (await takeover).taken_over == set(users)
    await store.close()


async def _bury(other: registry.PostgresRegistry) -> None:
    """Let another node find a dead one as often as it takes for its row to go."""
    for _ in range(3):
        assert await other.renew([]) == NOTHING


async def _rows(store: PostgresStore) -> tuple[int, int]:
    """Of how many nodes, and of how many of their people."""

    async def query(connection: Connection) -> tuple[int, int]:
        nodes, present = await connection.fetchrow(
            "SELECT (SELECT count(*) FROM duologue.node), (SELECT count(*) FROM duologue.presence)"
        )
        return int(nodes), int(present)

    return await store._run(query, readonly=True)


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
