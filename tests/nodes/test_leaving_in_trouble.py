"""SIGTERM while what a node stands on is away or stands still: it leaves all the same, in bounded time and in peace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from cluster.nats import NatsServer
from cluster.postgres import Postgres
from duologue.bus.nats import CLOSE_TIMEOUT
from tests.nodes.fleet import Fleet
from tests.support.client import ChatClient

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

DRAIN = 2.0
IN_TIME = DRAIN + CLOSE_TIMEOUT + 5.0
"""Seconds: the drain, a bus that doesn't confirm its end, the interpreter's own end, and the machine."""

TROUBLES: dict[str, Callable[[Postgres, NatsServer], object]] = {
    "database killed": lambda postgres, nats: postgres.kill(),
    "database silent": lambda postgres, nats: postgres.suspend(),
    "bus killed": lambda postgres, nats: nats.kill(),
    "bus silent": lambda postgres, nats: nats.suspend(),
    "both killed": lambda postgres, nats: (postgres.kill(), nats.kill()),
    "both silent": lambda postgres, nats: (postgres.suspend(), nats.suspend()),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_node_leaves_in_time(fleet: Fleet, own_postgres: Postgres, own_nats: NatsServer, trouble: str) -> None:
    node = fleet.add(own_postgres.url, own_nats.url, "--drain-timeout", f"{DRAIN}")
    fleet.start()
    async with ChatClient(node.url, "ann") as ann, ChatClient(node.url, "bob") as bob:
        await ann.send(bob.user_id, "hello")
        await asyncio.to_thread(TROUBLES[trouble], own_postgres, own_nats)
        ann.say(bob.user_id, "is anybody there?")
        start = time.monotonic()
        assert await asyncio.to_thread(node.terminate, 30) == 0
        assert time.monotonic() - start < IN_TIME
        await ann.wait_ended()
    for server in (own_postgres, own_nats):
        if server.alive:
            server.resume()
