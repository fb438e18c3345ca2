"""Two NATS servers that make a cluster, with the route between them in the test's hands.

    async with parted_servers(folder) as servers:
        fleet.add(database, servers.first.url); fleet.add(database, servers.second.url)
        await servers.part()        # every node's own connection is well, and no node hears those of the other server
        await servers.heal()        # returns when what is published at one reaches the other again
        servers.route.to_server.delay = servers.route.to_client.delay = 0.3     # a slow route

A server learns of the subscriptions at the other by the route as well, so a slow route loses what is published meanwhile.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import nats
from nats.aio.msg import Msg

from cluster.nats import NatsServer
from tests.support.proxy import Proxy

PATIENCE = 20.0
"""Seconds in which a route that can be made is made; a server tries again each second."""

PACE = 0.05
"""Seconds between two publications of which one is to come through."""


class Servers:
    def __init__(self, first: NatsServer, second: NatsServer, route: Proxy) -> None:
        self.first = first
        self.second = second
        self.route = route

    async def part(self) -> None:
        await self.route.refuse()

    async def heal(self) -> None:
        self.route.heal()
        await self.route.accept()
        await self._until_through()

    async def _until_through(self) -> None:
        subject, arrived = f"probe.{secrets.token_hex(4)}", asyncio.Event()

        async def arrive(_: Msg) -> None:
            arrived.set()

        there, here = await nats.connect(self.second.url), await nats.connect(self.first.url)
        try:
            await there.subscribe(subject, cb=arrive)
            async with asyncio.timeout(PATIENCE):
                while not arrived.is_set():
                    await here.publish(subject)
                    await asyncio.sleep(PACE)
        finally:
            for client in (there, here):
                await client.close()


@asynccontextmanager
async def parted_servers(folder: Path) -> AsyncIterator[Servers]:
    """The servers, not parted yet. Neither tells the other of a way around the proxy."""
    second = NatsServer(folder / "second", ["--no_advertise"])
    await asyncio.to_thread(second.start)
    try:
        async with Proxy(second.cluster_port) as route:
            first = NatsServer(folder / "first", ["--no_advertise", "--routes", route.url.replace("http", "nats")])
            await asyncio.to_thread(first.start)
            try:
                servers = Servers(first, second, route)
                await servers.heal()
                yield servers
            finally:
                await asyncio.to_thread(first.kill)
    finally:
        await asyncio.to_thread(second.kill)
