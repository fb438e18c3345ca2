"""F19: partitions, and everything at random among them. Each node is in a network namespace of its own, with one link for its
clients, one to NATS and one to PostgreSQL; a link that is down drops every packet, with no word to either side.

Nodes never talk to each other but over NATS: node parted from node is both of them up, and one of them without NATS; or their
NATS servers without each other (test_parted_routes.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from cluster.nats import NatsServer
from cluster.postgres import DATABASE, USER, Postgres
from duologue.bus.nats_link import PING_INTERVAL, SILENCE
from tests.nodes.fleet import Fleet, Trouble, talk_through
from tests.support.network import Link, namespace
from tests.support.process import ServerFailed, ServerProcess

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

NODES = 3

NOTICED = PING_INTERVAL + SILENCE + 1
"""Seconds in which a node has surely noticed that its bus doesn't answer."""

LONG = 40.0
"""Seconds: longer than the lease of presence and than every time-out on the way."""

LATE_AFTER_LONG = 30.0
"""Seconds in which everything is there after that: the kernel tries a silent connection again at ever longer intervals, and a
query on one that is dead has its time-out."""

TROUBLES = 40
"""In the long form."""


class Parted:
    """What every partition of a test needs: the links of each node."""

    def __init__(self, fleet: Fleet, bus: list[Link], store: list[Link], rng: random.Random) -> None:
        self.fleet = fleet
        self.bus = bus
        self.store = store
        self._rng = rng

    def parting(self, links: list[Link], seconds: float) -> Trouble:
        """One of the links goes down, and up again when it was for that long."""

        async def part() -> None:
            link = self._rng.choice(links)
            await asyncio.to_thread(link.down)
            try:
                await asyncio.sleep(seconds)
            finally:
                await asyncio.to_thread(link.up)

        return part

    def parting_at_once(self, seconds: float) -> Trouble:
        """One node is without both, the others without nothing: it's alone in the world, but for its clients."""
        number = self._rng.randrange(NODES)

        async def part() -> None:
            for link in (self.bus[number], self.store[number]):
                await asyncio.to_thread(link.down)
            try:
                await asyncio.sleep(seconds)
            finally:
                for link in (self.store[number], self.bus[number]):
                    await asyncio.to_thread(link.up)

        return part


@pytest.fixture
def far_postgres() -> Iterator[Postgres]:
    with TemporaryDirectory(prefix="duologue-") as folder:
        server = Postgres(Path(folder), {"listen_addresses": "*"})
        with server:
            with (Path(folder) / "data" / "pg_hba.conf").open("a") as access:
                access.write("host all all 10.0.0.0/8 trust\n")
            server.sql("SELECT pg_reload_conf()")
            yield server


@pytest.fixture
def far_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with NatsServer(tmp_path_factory.mktemp("far-nats"), ["-a", "0.0.0.0"]) as server:
        yield server


@pytest.fixture
def parted(
    far_postgres: Postgres, far_nats: NatsServer, tmp_path: Path, fleet: Fleet, rng: random.Random
) -> Iterator[Parted]:
    with ExitStack() as stack:
        bus, store = [], []
        for number in range(NODES):
            network = stack.enter_context(namespace())
            front = network.link()
            bus.append(network.link())
            store.append(network.link())
            node = ServerProcess(
                [
                    *network.command, sys.executable, "-m", "duologue", "serve", "--host", front.there, "--allow-guests",
                    "--data", str(tmp_path / f"data{number}"), "--log-level", "debug",
                    "--bus", f"nats://{bus[-1].here}:{far_nats.port}",
                    "--database", f"postgresql://{USER}@{store[-1].here}:{far_postgres.port}/{DATABASE}",
                ],
                host=front.there,
            )  # fmt: skip
            fleet.nodes.append(node)
        fleet.start()
        yield Parted(fleet, bus, store, rng)
        fleet.stop()


async def test_a_node_is_parted_from_the_bus_from_the_database_and_from_both(
    parted: Parted, rng: random.Random
) -> None:
    await talk_through(
        parted.fleet,
        rng,
        parted.parting(parted.bus, NOTICED),
        parted.parting(parted.store, 6),
        parted.parting_at_once(6),
    )
    logs = [line for node in parted.fleet.nodes for line in node.log()]
    for noticed in ("NATS is away", "lost its connection"):
        assert any(noticed in line for line in logs), f"no node noticed: {noticed}"


@pytest.mark.torture
@pytest.mark.timeout(900)
async def test_partitions_longer_than_every_time_out(parted: Parted, rng: random.Random) -> None:
    await talk_through(
        parted.fleet,
        rng,
        *[parted.parting(parted.bus, LONG), parted.parting(parted.store, LONG), parted.parting_at_once(LONG)] * 2,
        late=LATE_AFTER_LONG,
    )


@pytest.mark.torture
@pytest.mark.timeout(3600)
async def test_everything_at_random(
    parted: Parted, far_postgres: Postgres, far_nats: NatsServer, rng: random.Random
) -> None:
    """Whatever a node, the bus, the database or a link can suffer, one trouble after another."""
    fleet = parted.fleet

    def start(node: ServerProcess) -> None:
        """Until it succeeds, as a supervisor does: a node without its database ends."""
        for _ in range(10):
            with contextlib.suppress(ServerFailed):
                node.start()
                return

    def kill_node() -> None:
        node = rng.choice(fleet.nodes)
        node.kill()
        start(node)

    def restart_node() -> None:
        node = rng.choice(fleet.nodes)
        assert node.terminate() == 0
        start(node)

    def kill_bus() -> None:
        far_nats.kill()
        far_nats.start()

    def kill_database() -> None:
        far_postgres.kill()
        far_postgres.start()

    async def stand_still() -> None:
        servers: list[ServerProcess | NatsServer | Postgres] = [*fleet.nodes, far_nats, far_postgres]
        server = rng.choice(servers)
        server.suspend()
        try:
            await asyncio.sleep(rng.uniform(0.1, 15))
        finally:
            server.resume()

    def part() -> Trouble:
        seconds = rng.uniform(0.1, 15)
        return rng.choice(
            [
                parted.parting(parted.bus, seconds),
                parted.parting(parted.store, seconds),
                parted.parting_at_once(seconds),
            ]
        )

    troubles: list[Trouble] = []
    for _ in range(TROUBLES):
        troubles.append(rng.choice([kill_node, restart_node, kill_bus, kill_database, stand_still, part()]))
    await talk_through(fleet, rng, *troubles, late=LATE_AFTER_LONG)
