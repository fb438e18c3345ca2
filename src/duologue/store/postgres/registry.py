"""Who is connected to which node, in the database that the nodes share. Every method may be repeated without harm."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol, TypeVar

from duologue.domain.errors import Code, Refusal
from duologue.domain.ports import Renewal
from duologue.store.postgres.connection import Connection
from duologue.store.postgres.keys import user_id, user_key

PORTION: Final = 5_000
"""People of dead nodes whom one statement takes over. Messages to them wait until it's done, some 40 ms."""

TAKE_OVER_SHARE: Final = 1 / 6
"""The part of its lease after which a node begins no further portion, for it gives no sign of life meanwhile."""

T = TypeVar("T")

# Nobody arrives at a node that others are taking over, or have: they wouldn't see it, and it would stay when the node's row is
# gone. By the lock the two take turns.
_ARRIVE = """
    WITH entered AS (
        SELECT id FROM duologue.node WHERE id = $2 AND until > '-infinity' FOR KEY SHARE
    ), came AS (
        INSERT INTO duologue.presence (owner, node)
        SELECT owner, id FROM entered CROSS JOIN unnest($1::bigint[]) AS here (owner) ORDER BY owner
        ON CONFLICT DO NOTHING
    )
    SELECT id FROM entered
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
    WHERE id = $1 AND until > '-infinity' RETURNING id
"""

_ENTER = """
    INSERT INTO duologue.node (id, seen, until)
    VALUES ($1, clock_timestamp(), clock_timestamp() + make_interval(secs => $2))
    ON CONFLICT (id) DO UPDATE SET seen = excluded.seen, until = excluded.until
"""

# Of two nodes that find a third one dead, one has it and the other goes on. The people are locked in the order of the writer's
# statement, so that the two never deadlock.
#
# The first portion ends the lease for good (-infinity). From then on nobody arrives at the node, and should it come back it finds
# out that not all of its people are written down any more. Its row goes with a portion that isn't full, but never with the first:
# that one doesn't see who has arrived since it began.
#
# By the node and not by the owners: where presence is spread over servers it asks them all. BETWEEN is for the planner: with =
# it expects as many people as of any node, and reads the table from its beginning (85 ms for 1, of 1,000,000 people).
_TAKE_OVER = """
    WITH dead AS (
        SELECT id, (extract(epoch FROM seen) * 1000)::bigint AS at FROM duologue.node
        WHERE until < clock_timestamp() AND id <> $1 FOR UPDATE SKIP LOCKED
    ), portion AS (
        SELECT owner FROM dead CROSS JOIN LATERAL (
            SELECT owner FROM duologue.presence WHERE node BETWEEN dead.id AND dead.id LIMIT $2
        ) AS present LIMIT $2
    ), ended AS (
        UPDATE duologue.node SET until = '-infinity' FROM dead WHERE node.id = dead.id AND until > '-infinity'
    ), emptied AS (
        DELETE FROM duologue.node USING dead
        WHERE node.id = dead.id AND until = '-infinity' AND (SELECT count(*) FROM portion) < $2
    ), gone AS (
        DELETE FROM duologue.presence USING dead WHERE node = dead.id AND owner = ANY(ARRAY(SELECT owner FROM portion))
        RETURNING owner, at
    ), last AS (
        SELECT owner, max(at) AS at FROM gone GROUP BY owner
    ), locked AS (
        SELECT person.id, at FROM last JOIN duologue.person ON person.id = owner ORDER BY person.id FOR NO KEY UPDATE OF person
    ), seen AS (
        UPDATE duologue.person SET last_seen = greatest(last_seen, at) FROM locked WHERE person.id = locked.id
    )
    SELECT owner FROM last
"""

_RETIRE = """
    UPDATE duologue.node SET until = clock_timestamp() + make_interval(secs => $2) WHERE id = $1 AND until > '-infinity'
"""


_log = logging.getLogger(__name__)


class Run(Protocol):
    """Runs a query in a transaction of its own, again if the connection is lost. With `single` set it's a single statement,
    which commits by itself: its locks don't wait for another word from this node."""

    async def __call__(
        self, query: Callable[[Connection], Awaitable[T]], *, readonly: bool, single: bool = False
    ) -> T: ...


class PostgresRegistry:
    """Implements `duologue.domain.ports.Registry` for one node, which gets a name of its own at each start."""

    def __init__(self, run: Run, lease: float) -> None:
        self._run = run
        self._lease = lease
        self._node = secrets.token_hex(8)
        self._entered = False
        """The caller has heard that the node is registered with all its people, and nothing else since."""

    @property
    def node(self) -> str:
        return self._node

    async def nodes(self) -> frozenset[str]:
        async def query(connection: Connection) -> frozenset[str]:
            return frozenset(node for (node,) in await connection.fetch(_LIVELY, self._node, self._lease / 2))

        return await self._run(query, readonly=True)

    async def arrive(self, users: Sequence[str]) -> None:
        async def query(connection: Connection) -> bool:
            return await connection.fetchval(_ARRIVE, _keys(users), self._node) is not None

        if not await self._run(query, readonly=False):
            raise Refusal(Code.UNAVAILABLE, "this node isn't registered")

    async def leave(self, users: Sequence[str]) -> None:
        await self._execute(_LEAVE, _keys(users), self._node)

    async def online(self, users: Sequence[str]) -> frozenset[str]:
        async def query(connection: Connection) -> frozenset[str]:
            return frozenset(user_id(owner) for (owner,) in await connection.fetch(_ONLINE, _keys(users)))

        return await self._run(query, readonly=True)

    async def renew(self, here: Sequence[str]) -> Renewal:
        async def query(connection: Connection) -> Sequence[str]:
            if self._entered and await connection.fetchval(_RENEW, self._node, self._lease) is not None:
                return ()
            self._entered = False  # whatever becomes of the commit, and of its answer
            await connection.execute(_ENTER, self._node, self._lease)
            await connection.execute(_ARRIVE, _keys(here), self._node)
            return here

        anew = frozenset(await self._run(query, readonly=False))
        taken_over = await self._take_over()
        self._entered = True
        return Renewal(anew, taken_over)

    async def _take_over(self) -> frozenset[str]:
        async def query(connection: Connection) -> list[str]:
            return [user_id(owner) for (owner,) in await connection.fetch(_TAKE_OVER, self._node, PORTION)]

        now = asyncio.get_running_loop().time
        end = now() + self._lease * TAKE_OVER_SHARE
        taken: set[str] = set()
        try:
            while portion := await self._run(query, readonly=False, single=True):
                taken.update(portion)
                if now() >= end:
                    break
        except Refusal as refusal:
            _log.warning("the users of dead nodes can't be taken over, trying again at the next beat: %s", refusal)
        return frozenset(taken)

    async def retire(self, grace: float) -> None:
        await self._execute(_RETIRE, self._node, grace)

    async def _execute(self, statement: str, *arguments: object) -> None:
        async def query(connection: Connection) -> None:
            await connection.execute(statement, *arguments)

        await self._run(query, readonly=False)


def _keys(users: Sequence[str]) -> list[int]:
    return sorted(key for key in map(user_key, users) if key is not None)
