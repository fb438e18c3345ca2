"""F18 to F20, F23: a node, the bus or the database fails under load, and nothing that was acknowledged is lost, repeated or
reordered. The short form; `make torture` does the same for longer."""

from __future__ import annotations

import random

import pytest

from cluster.nats import NatsServer
from cluster.postgres import Postgres
from tests.nodes.fleet import Fleet, talk_through
from tests.support.process import ServerProcess

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]


async def test_nodes_that_are_killed(three: Fleet, rng: random.Random) -> None:
    """F19. Their people go on at another node."""

    def kill() -> None:
        node = rng.choice(three.nodes)
        node.kill()
        node.start()

    await talk_through(three, rng, *[kill] * 6)


async def test_a_bus_that_is_killed(fleet: Fleet, database: str, own_nats: NatsServer, rng: random.Random) -> None:
    """F18. The nodes read the store meanwhile."""
    for _ in range(2):
        fleet.add(database, own_nats.url)
    fleet.start()
    await talk_through(fleet, rng, own_nats.kill, own_nats.start, own_nats.kill, own_nats.start)


async def test_a_database_that_is_killed(
    fleet: Fleet, own_postgres: Postgres, nats: NatsServer, rng: random.Random
) -> None:
    """F20."""
    for _ in range(2):
        fleet.add(own_postgres.url, nats.url)
    fleet.start()

    def restart() -> None:
        own_postgres.kill()
        own_postgres.start()

    await talk_through(fleet, rng, restart, restart)


async def test_a_rolling_restart_and_a_changing_number_of_nodes(
    fleet: Fleet, database: str, nats: NatsServer, rng: random.Random
) -> None:
    """F23. 3 nodes, each restarted; then 5; then 2."""
    for _ in range(3):
        fleet.add(database, nats.url)
    fleet.start()

    def restart(node: ServerProcess) -> None:
        assert node.terminate() == 0
        node.start()

    def grow() -> None:
        fleet.start([fleet.add(database, nats.url) for _ in range(2)])

    def shrink() -> None:
        for node in fleet.nodes[:3]:
            assert node.terminate() == 0

    restarts = [lambda node=node: restart(node) for node in fleet.nodes]  # type: ignore[misc]
    await talk_through(fleet, rng, *restarts, grow, shrink)


async def test_a_node_that_stands_still(three: Fleet, rng: random.Random) -> None:
    """It may have locks, and has people who wait for it."""
    node = rng.choice(three.nodes)
    await talk_through(three, rng, node.suspend, node.resume)
