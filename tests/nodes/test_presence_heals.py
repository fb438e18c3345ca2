"""What people see of each other once a trouble is over: hints were lost meanwhile, and the last word is right all the same."""

from __future__ import annotations

import asyncio

import pytest

from cluster.nats import NatsServer
from cluster.postgres import Postgres
from tests.nodes.fleet import Fleet
from tests.nodes.people import connected, disconnected, watching
from tests.support.client import ChatClient
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

QUICK = ("--presence-lease", "1.5", "--presence-grace", "0.3")


async def _known_to_be_gone(url: str, who: ChatClient) -> None:
    """Wait until the registry has it."""
    async with ChatClient(url, "dan", guide=True) as dan:
        (users,) = await dan.wait_for_event("users")
        if any(user["userID"] == who.user_id and user["connected"] for user in users):
            await disconnected(dan, who.user_id)


@pytest.mark.parametrize("guide", [True, False], ids=["guide", "sync"])
async def test_who_came_and_went_while_the_bus_was_away(
    fleet: Fleet, database: str, own_nats: NatsServer, guide: bool
) -> None:
    for _ in range(2):
        fleet.add(database, own_nats.url, *QUICK)
    fleet.start()
    here, there = fleet.nodes
    async with ChatClient(there.url, "ann") as ann, ChatClient(there.url, "cat") as cat:
        bob = await watching(here.url, guide, ann, cat)
        await cat.close()
        await disconnected(bob, cat.user_id)
        bob.events.clear()
        mark = there.log_mark()
        await asyncio.to_thread(own_nats.kill)
        await asyncio.to_thread(there.wait_for_log, "NATS is away", since=mark)
        await cat.connect()
        await ann.close()
        await _known_to_be_gone(there.url, ann)
        await asyncio.to_thread(own_nats.start)
        await disconnected(bob, ann.user_id)
        await connected(bob, cat.user_id)
        await bob.close()


async def test_who_goes_while_a_node_hears_nothing(fleet: Fleet, database: str, nats: NatsServer) -> None:
    """The other node has no trouble and so nothing to say afterwards."""
    async with Proxy(nats.port) as proxy:
        fleet.add(database, proxy.url.replace("http", "nats"), *QUICK)
        fleet.add(database, nats.url, *QUICK)
        await asyncio.to_thread(fleet.start)
        here, there = fleet.nodes
        ann = await ChatClient(there.url, "ann").connect()
        bob = await watching(here.url, True, ann)
        mark = here.log_mark()
        await proxy.refuse()
        await asyncio.to_thread(here.wait_for_log, "NATS is away", since=mark)
        await ann.close()
        await _known_to_be_gone(there.url, ann)
        await proxy.accept()
        await disconnected(bob, ann.user_id)
        await bob.close()
        await asyncio.to_thread(fleet.stop)


@pytest.mark.parametrize("guide", [True, False], ids=["guide", "sync"])
async def test_a_node_and_the_database_are_killed_together(
    fleet: Fleet, own_postgres: Postgres, nats: NatsServer, guide: bool
) -> None:
    """The crash empties the registry: nobody finds there of whom the dead node had to speak."""
    for _ in range(2):
        fleet.add(own_postgres.url, nats.url, *QUICK)
    fleet.start()
    here, there = fleet.nodes
    async with ChatClient(there.url, "ann") as ann:
        bob = await watching(here.url, guide, ann)
        await asyncio.to_thread(own_postgres.kill)
        there.kill()
        await asyncio.to_thread(own_postgres.start)
        await disconnected(bob, ann.user_id)
        await bob.close()
