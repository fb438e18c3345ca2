"""F18 to F20, F23: a node, the bus or the database fails under load, and nothing that was acknowledged is lost, repeated or
reordered. The short form; `make torture` does the same for longer."""

from __future__ import annotations

import asyncio
import random

import pytest

from cluster.nats import NatsServer
from cluster.postgres import DATABASE, HOST, USER, Postgres
from tests.nodes.fleet import Fleet, talk_through
from tests.support.client import ChatClient
from tests.support.process import ServerProcess
from tests.support.proxy import Proxy

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]


async def test_nodes_that_are_killed(three: Fleet, rng: random.Random) -> None:
    """F19. Their people go on at another node."""

    def kill() -> None:
        node = rng.choice(three.nodes)
        node.kill()
        node.start()

    await talk_through(three, rng, *[kill] * 6)


async def test_a_bus_that_is_killed(own_nats: NatsServer, fleet: Fleet, database: str, rng: random.Random) -> None:
    """F18. The nodes read the store meanwhile."""
    for _ in range(2):
        fleet.add(database, own_nats.url)
    fleet.start()
    await talk_through(fleet, rng, own_nats.kill, own_nats.start, own_nats.kill, own_nats.start)


async def test_a_database_that_is_killed(
    own_postgres: Postgres, fleet: Fleet, nats: NatsServer, rng: random.Random
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


@pytest.mark.torture
@pytest.mark.timeout(400)
async def test_a_node_that_stands_still_for_a_minute(three: Fleet, rng: random.Random) -> None:
    """Longer than the lease of presence, the heartbeats of clients and every time-out of the database."""

    async def stand_still() -> None:
        node = rng.choice(three.nodes)
        node.suspend()
        try:
            await asyncio.sleep(60)
        finally:
            node.resume()

    await talk_through(three, rng, stand_still, stand_still)


async def test_a_slow_disk_and_one_that_stands_still(
    own_postgres: Postgres, fleet: Fleet, nats: NatsServer, rng: random.Random
) -> None:
    """Every commit takes a tenth of a second longer (commit_delay waits where a slow sync would), then none comes for seconds."""
    for _ in range(2):
        fleet.add(own_postgres.url, nats.url)
    fleet.start()

    def slow() -> None:
        own_postgres.set(commit_delay="100000", commit_siblings="0")

    async def stand_still() -> None:
        own_postgres.suspend()
        try:
            await asyncio.sleep(3)
        finally:
            own_postgres.resume()

    await talk_through(fleet, rng, slow, stand_still)


async def _cut_off(fleet: Fleet, rng: random.Random, proxy: Proxy) -> None:
    """Swallow everything both ways, with no word to either side, and heal it again."""

    async def part() -> None:
        proxy.to_server.swallow = proxy.to_client.swallow = True

    async def heal() -> None:
        proxy.heal()
        await proxy.cut()

    await talk_through(fleet, rng, part, heal, part, heal)


async def test_a_node_that_is_cut_off_from_the_bus(
    fleet: Fleet, database: str, nats: NatsServer, rng: random.Random
) -> None:
    """F19. It notices by the silence, and reads the store meanwhile."""
    async with Proxy(nats.port) as proxy:
        fleet.add(database, nats.url)
        fleet.add(database, proxy.url.replace("http", "nats"))
        await asyncio.to_thread(fleet.start)
        await _cut_off(fleet, rng, proxy)
        await asyncio.to_thread(fleet.stop)


async def test_a_node_that_is_cut_off_from_the_database(
    fleet: Fleet, database: str, postgres: Postgres, nats: NatsServer, rng: random.Random
) -> None:
    """F19. The database ends what it has begun, so that it holds up nobody else; its own people get what they're owed when it's
    healed, or at another node."""
    async with Proxy(postgres.port) as proxy:
        fleet.add(database, nats.url)
        fleet.add(database.replace(str(postgres.port), str(proxy.port)), nats.url)
        await asyncio.to_thread(fleet.start)
        await _cut_off(fleet, rng, proxy)
        await asyncio.to_thread(fleet.stop)


async def test_a_failover_of_the_database(
    own_postgres: Postgres, standby_postgres: Postgres, fleet: Fleet, nats: NatsServer, rng: random.Random
) -> None:
    """F20. To a synchronous standby, under load."""
    own_postgres.set(synchronous_standby_names="*")
    hosts = f"{HOST}:{own_postgres.port},{HOST}:{standby_postgres.port}"
    for _ in range(2):
        fleet.add(f"postgresql://{USER}@{hosts}/{DATABASE}", nats.url)
    fleet.start()

    def fail_over() -> None:
        own_postgres.kill()
        standby_postgres.promote()

    await talk_through(fleet, rng, fail_over)


async def test_numbers_that_a_failover_gives_out_again_are_not_taken_for_known_ones(
    own_postgres: Postgres, standby_postgres: Postgres, fleet: Fleet, nats: NatsServer
) -> None:
    """F20 without a synchronous standby: what was acknowledged last is lost, which docs/operations/failover.md says; nothing that
    comes after it may be."""
    hosts = f"{HOST}:{own_postgres.port},{HOST}:{standby_postgres.port}"
    for _ in range(2):
        fleet.add(f"postgresql://{USER}@{hosts}/{DATABASE}", nats.url)
    fleet.start()
    here, there = (node.url for node in fleet.nodes)
    ann = await ChatClient(here, "ann").connect()
    bob = await ChatClient(there, "bob").connect()
    away = await ChatClient(there, "cat").connect()
    await _tell_all(ann, [bob, away], "kept")
    await asyncio.to_thread(own_postgres.until_replicated)
    standby_postgres.kill()
    for number in range(3):
        await _tell_all(ann, [bob, away], f"lost {number}")
    away.cut()
    await asyncio.to_thread(own_postgres.kill)
    await asyncio.to_thread(standby_postgres.start)
    await asyncio.to_thread(standby_postgres.promote)
    for device in (ann, bob):
        await device.wait_ended(timeout=30)
        await device.connect_surely()
    for number in range(5):
        for peer in (bob, away):
            ack = await ann.send_surely(peer.user_id, f"after {number}")
            assert ack["seq"] == number + 2
    await away.connect_surely()
    for peer in (bob, away):
        page = await peer.history(ann.user_id)
        assert [each["content"] for each in page["messages"]] == ["kept", *(f"after {number}" for number in range(5))]
        for number in range(5):
            await _seen(peer, f"after {number}")
    for device in (ann, bob, away):
        await device.close()


async def _tell_all(sender: ChatClient, recipients: list[ChatClient], content: str) -> None:
    for recipient in recipients:
        await sender.send(recipient.user_id, content)
        await recipient.wait_for_message(content)


async def _seen(device: ChatClient, content: str) -> None:
    """Live, or in the pages of the last sync."""
    known = [each["content"] for page in device.pages for entry in page["conversations"] for each in entry["messages"]]
    if content not in known:
        await device.wait_for_message(content)
