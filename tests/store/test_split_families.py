"""What docs/decisions/store-postgres.md says of two families of tables on different servers, tried on real ones: a message and
its outbox row in one transaction, a relay that brings it to both people's servers and may die or repeat itself anywhere.

It's a trial of the design and not a part of the product: with one database the store needs no relay.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import pytest

from cluster.postgres import Postgres
from duologue.store.postgres.connection import LOST, connect

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

PEOPLE = 6
MESSAGES = 60
PATIENCE = 60.0

# Keys begin with the conversation. Locking its row orders the messages, and the outbox with them.
CONVERSATIONS = """
    CREATE TABLE conversation (low int, high int, seq bigint NOT NULL, PRIMARY KEY (low, high));
    CREATE TABLE message (
        low int, high int, seq bigint, sender int NOT NULL, id uuid NOT NULL, content text NOT NULL,
        PRIMARY KEY (low, high, seq), UNIQUE (low, high, sender, id)
    );
    CREATE TABLE outbox (low int, high int, seq bigint, PRIMARY KEY (low, high, seq));
"""

# Keys begin with the user. `change` is what a sync reads: which message took which version of theirs, known only here.
USERS = """
    CREATE TABLE person (id int PRIMARY KEY, version bigint NOT NULL DEFAULT 0);
    CREATE TABLE dialog (owner int, peer int, seq bigint NOT NULL, version bigint NOT NULL, PRIMARY KEY (owner, peer));
    CREATE TABLE change (owner int, version bigint, peer int NOT NULL, seq bigint NOT NULL, PRIMARY KEY (owner, version));
"""


@dataclass
class Servers:
    """Conversations on two servers, people on two others; each key's server follows from the key."""

    conversations: list[Postgres]
    users: list[Postgres]

    def of_conversation(self, low: int, high: int) -> Postgres:
        return self.conversations[(low * 31 + high) % len(self.conversations)]

    def of_user(self, user: int) -> Postgres:
        return self.users[user % len(self.users)]


@pytest.fixture
def servers() -> Iterator[Servers]:
    with ExitStack() as stack:
        made = [
            stack.enter_context(Postgres(Path(stack.enter_context(TemporaryDirectory(prefix="duologue-")))))
            for _ in range(4)
        ]
        for server, tables in zip(made, (CONVERSATIONS, CONVERSATIONS, USERS, USERS), strict=True):
            server.sql(tables)
        found = Servers(made[:2], made[2:])
        for user in range(PEOPLE):
            found.of_user(user).sql(f"INSERT INTO person VALUES ({user})")
        yield found


@asynccontextmanager
async def session(server: Postgres) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await connect(server.url)
    try:
        yield connection
    finally:
        connection.terminate()


async def send(servers: Servers, sender: int, recipient: int, id: uuid.UUID, content: str) -> int:
    """Returns the seq once message and outbox row are on disk: that is the ack."""
    low, high = min(sender, recipient), max(sender, recipient)
    async with session(servers.of_conversation(low, high)) as connection, connection.transaction():
        seq = await connection.fetchval(
            "INSERT INTO conversation VALUES ($1, $2, 0) "
            "ON CONFLICT (low, high) DO UPDATE SET seq = conversation.seq RETURNING seq",
            low,
            high,
        )
        known = await connection.fetchval(
            "SELECT seq FROM message WHERE low = $1 AND high = $2 AND sender = $3 AND id = $4", low, high, sender, id
        )
        if known is not None:
            return int(known)
        seq += 1
        await connection.execute("UPDATE conversation SET seq = $3 WHERE low = $1 AND high = $2", low, high, seq)
        await connection.execute(
            "INSERT INTO message VALUES ($1, $2, $3, $4, $5, $6)", low, high, seq, sender, id, content
        )
        await connection.execute("INSERT INTO outbox VALUES ($1, $2, $3)", low, high, seq)
    return int(seq)


async def apply(servers: Servers, owner: int, peer: int, seq: int) -> None:
    """Bring one message to one side. Applied twice it changes nothing."""
    async with session(servers.of_user(owner)) as connection, connection.transaction():
        version = await connection.fetchval("SELECT version FROM person WHERE id = $1 FOR NO KEY UPDATE", owner)
        at = await connection.fetchval("SELECT seq FROM dialog WHERE owner = $1 AND peer = $2", owner, peer)
        if (at or 0) >= seq:
            return
        assert (at or 0) == seq - 1, "the relay keeps the order of each conversation"
        await connection.execute("UPDATE person SET version = $2 WHERE id = $1", owner, version + 1)
        await connection.execute("INSERT INTO change VALUES ($1, $2, $3, $4)", owner, version + 1, peer, seq)
        await connection.execute(
            "INSERT INTO dialog VALUES ($1, $2, $3, $4) ON CONFLICT (owner, peer) DO UPDATE SET seq = $3, version = $4",
            owner,
            peer,
            seq,
            version + 1,
        )


async def relay_once(servers: Servers, server: Postgres, rng: random.Random, dies: float) -> int:
    """Go through one server's outbox in the order of each conversation. Raises at random places: the relay was killed."""

    def maybe_die() -> None:
        if rng.random() < dies:
            raise ConnectionAbortedError("the relay was killed")

    async with session(server) as connection:
        rows = await connection.fetch("SELECT low, high, seq FROM outbox ORDER BY low, high, seq LIMIT 20")
        for low, high, seq in rows:
            await apply(servers, low, high, seq)
            maybe_die()
            await apply(servers, high, low, seq)
            maybe_die()
            await connection.execute("DELETE FROM outbox WHERE low = $1 AND high = $2 AND seq = $3", low, high, seq)
        return len(rows)


class Trial:
    """People who talk, relays that die, servers that are killed."""

    def __init__(self, servers: Servers, rng: random.Random) -> None:
        self.servers = servers
        self.rng = rng
        self.acknowledged: dict[tuple[int, int], list[str]] = {}
        self.done = asyncio.Event()

    async def talk(self, sender: int) -> None:
        for number in range(MESSAGES // PEOPLE):
            recipient = self.rng.choice([user for user in range(PEOPLE) if user != sender])
            content = f"{sender} says {number}"
            await self._send_surely(sender, recipient, content)
            self.acknowledged.setdefault((min(sender, recipient), max(sender, recipient)), []).append(content)

    async def relay(self, server: Postgres) -> None:
        while True:
            try:
                finished = self.done.is_set()
                if not await relay_once(self.servers, server, self.rng, dies=0.1) and finished:
                    return
            except (*LOST, asyncpg.PostgresError):
                pass
            await asyncio.sleep(0.01)

    async def harm(self) -> None:
        for server in self.rng.sample([*self.servers.conversations, *self.servers.users], 3):
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)

    async def _send_surely(self, sender: int, recipient: int, content: str) -> None:
        id = uuid.UUID(int=self.rng.getrandbits(128))
        while True:
            try:
                await send(self.servers, sender, recipient, id, content)
            except (*LOST, asyncpg.PostgresError):
                await asyncio.sleep(0.05)
            else:
                return


async def test_an_outbox_brings_everything_once_and_in_order(servers: Servers, rng: random.Random) -> None:
    trial = Trial(servers, rng)
    async with asyncio.timeout(PATIENCE):
        # Two relays for each server: one that was taken for dead may still be at work.
        relays = [asyncio.create_task(trial.relay(server)) for server in servers.conversations * 2]
        await asyncio.gather(*(trial.talk(user) for user in range(PEOPLE)), trial.harm())
        trial.done.set()
        await asyncio.gather(*relays)
    for (low, high), contents in trial.acknowledged.items():
        await _judge_conversation(servers, low, high, contents)
    for user in range(PEOPLE):
        await _judge_user(servers, user, trial.acknowledged)


async def _judge_conversation(servers: Servers, low: int, high: int, contents: list[str]) -> None:
    async with session(servers.of_conversation(low, high)) as connection:
        rows = await connection.fetch(
            "SELECT seq, content FROM message WHERE low = $1 AND high = $2 ORDER BY seq", low, high
        )
        assert [seq for seq, _ in rows] == list(range(1, len(rows) + 1))
        assert sorted(content for _, content in rows) == sorted(contents)
        assert not await connection.fetchval("SELECT count(*) FROM outbox")


async def _judge_user(servers: Servers, user: int, acknowledged: dict[tuple[int, int], list[str]]) -> None:
    async with session(servers.of_user(user)) as connection:
        changes = await connection.fetch(
            "SELECT version, peer, seq FROM change WHERE owner = $1 ORDER BY version", user
        )
    assert [version for version, _, _ in changes] == list(range(1, len(changes) + 1))
    for peer in set(range(PEOPLE)) - {user}:
        expected = len(acknowledged.get((min(user, peer), max(user, peer)), []))
        assert [seq for _, other, seq in changes if other == peer] == list(range(1, expected + 1))
