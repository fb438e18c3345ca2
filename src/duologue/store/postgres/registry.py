"""Who is connected to which node, in the database that the nodes share. Every method may be repeated without harm."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from duologue.domain.errors import Refusal
from duologue.domain.ports import Renewal
from duologue.store.postgres.connection import Connection
from duologue.store.postgres.keys import user_id, user_key

T = TypeVar("T")

_ARRIVE = """
    INSERT INTO duologue.presence (owner, node) SELECT owner, $2 FROM unnest($1::bigint[]) AS here (owner) ORDER BY owner
    ON CONFLICT DO NOTHING
"""

_LEAVE = "DELETE FROM duologue.presence WHERE owner = ANY($1::bigint[]) AND node = $2"

_ONLINE = """
    SELECT DISTINCT owner FROM duologue.presence JOIN duologue.node ON node.id = presence.node
    WHERE owner = ANY($1::bigint[]) AND until > clock_timestamp()
"""

_LIVELY = """
    SELECT id FROM duologue.node
    WHERE id <> $1 AND until > clock_timestamp() AND seen > clock_timestamp() - make_interval(secs => $2)
"""

_RENEW = """
    UPDATE duologue.node SET seen = clock_timestamp(), until = clock_timestamp() + make_interval(secs => $2)
    WHERE id = $1 RETURNING id
"""

_ENTER = """
    INSERT INTO duologue.node (id, seen, until)
    VALUES ($1, clock_timestamp(), clock_timestamp() + make_interval(secs => $2))
"""

# Of two nodes that find a third one dead, one has it and the other goes on. In one statement, for between two the first might
# be cut off. The people are locked in the order of the writer's statement, so that the two never deadlock. By the node and not
# by the owners: where presence is spread over servers it asks them all, once for each node that died.
_TAKE_OVER = """
    WITH dead AS (
        DELETE FROM duologue.node WHERE id IN (
            SELECT id FROM duologue.node WHERE until < clock_timestamp() AND id <> $1 FOR UPDATE SKIP LOCKED
        ) RETURNING id, (extract(epoch FROM seen) * 1000)::bigint AS at
    ), gone AS (
        DELETE FROM duologue.presence USING dead WHERE presence.node = dead.id RETURNING owner, at
    ), last AS (
        SELECT owner, max(at) AS at FROM gone GROUP BY owner
    ), locked AS (
        SELECT person.id, at FROM last JOIN duologue.person ON person.id = owner ORDER BY person.id FOR NO KEY UPDATE OF person
    ), seen AS (
        UPDATE duologue.person SET last_seen = greatest(last_seen, at) FROM locked WHERE person.id = locked.id
    )
    SELECT owner FROM last
"""

_RETIRE = "UPDATE duologue.node SET until = clock_timestamp() + make_interval(secs => $2) WHERE id = $1"


_log = logging.getLogger(__name__)


class Run(Protocol):
    """Runs a query in a transaction of its own, again if the connection is lost."""

    async def __call__(self, query: Callable[[Connection], Awaitable[T]], *, readonly: bool) -> T: ...


class PostgresRegistry:
    """Implements `duologue.domain.ports.Registry` for one node, which gets a name of its own at each start."""

    def __init__(self, run: Run, lease: float) -> None:
        self._run = run
        self._lease = lease
        self._node = secrets.token_hex(8)

    @property
    def node(self) -> str:
        return self._node

    async def nodes(self) -> frozenset[str]:
        async def query(connection: Connection) -> frozenset[str]:
            return frozenset(node for (node,) in await connection.fetch(_LIVELY, self._node, self._lease / 2))

        return await self._run(query, readonly=True)

    async def arrive(self, users: Sequence[str]) -> None:
        await self._execute(_ARRIVE, _keys(users), self._node)

    async def leave(self, users: Sequence[str]) -> None:
        await self._execute(_LEAVE, _keys(users), self._node)

    async def online(self, users: Sequence[str]) -> frozenset[str]:
        async def query(connection: Connection) -> frozenset[str]:
            return frozenset(user_id(owner) for (owner,) in await connection.fetch(_ONLINE, _keys(users)))

        return await self._run(query, readonly=True)

    async def renew(self, here: Sequence[str]) -> Renewal:
        async def query(connection: Connection) -> Sequence[str]:
            if await connection.fetchval(_RENEW, self._node, self._lease) is not None:
                return ()
            await connection.execute(_ENTER, self._node, self._lease)
            await connection.execute(_ARRIVE, _keys(here), self._node)
            return here

        anew = frozenset(await self._run(query, readonly=False))
        try:
            return Renewal(anew, await self._take_over())
        except Refusal as refusal:
            _log.warning("the users of dead nodes can't be taken over, trying again at the next beat: %s", refusal)
            return Renewal(anew, frozenset())

    async def _take_over(self) -> frozenset[str]:
        async def query(connection: Connection) -> frozenset[str]:
            return frozenset(user_id(owner) for (owner,) in await connection.fetch(_TAKE_OVER, self._node))

        return await self._run(query, readonly=False)

    async def retire(self, grace: float) -> None:
        await self._execute(_RETIRE, self._node, grace)

    async def _execute(self, statement: str, *arguments: object) -> None:
        async def query(connection: Connection) -> None:
            await connection.execute(statement, *arguments)

        await self._run(query, readonly=False)


def _keys(users: Sequence[str]) -> list[int]:
    return sorted(key for key in map(user_key, users) if key is not None)
