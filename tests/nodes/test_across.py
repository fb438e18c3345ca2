"""What people see who are on different nodes: one chat."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from cluster.nats import NatsServer
from tests.nodes.devices import AT_ONCE, Devices
from tests.nodes.fleet import Fleet, until_health
from tests.nodes.people import connected, disconnected, watch
from tests.support.checker import check
from tests.support.client import ChatClient, stored_messages
from tests.support.record import Record

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(120)]

SHORT_LEASE = 1.5
"""Seconds, where the end of a lease is waited for; with 30, the default, the same takes 20 times as long. After a stall of the
machine a lease may be over though its node lives."""

SHORT = 0.3
"""Seconds of grace, where somebody's absence is waited for."""

AMPLE = 3.0
"""Seconds of grace in which somebody has to come back: a machine that's busy with other things may take one."""

ENDLESS = 30.0
"""Seconds of grace that nothing waits for."""


@pytest.fixture
def two(fleet: Fleet, database: str, nats: NatsServer) -> Fleet:
    return _two(fleet, database, nats, SHORT)


@pytest.fixture
def two_with_short_leases(fleet: Fleet, database: str, nats: NatsServer) -> Fleet:
    return _two(fleet, database, nats, SHORT, "--presence-lease", f"{SHORT_LEASE}")


def _two(fleet: Fleet, database: str, nats: NatsServer, grace: float, *flags: str) -> Fleet:
    for _ in range(2):
        fleet.add(database, nats.url, "--presence-grace", f"{grace}", *flags)
    return fleet.start()


async def test_a_conversation_between_nodes(two: Fleet) -> None:
    record = Record()
    here, there = (node.url for node in two.nodes)
    async with AsyncExitStack() as stack:
        ann = await stack.enter_async_context(ChatClient(here, "ann", record))
        bob = await stack.enter_async_context(ChatClient(there, "bob", record))
        tablet = await stack.enter_async_context(ChatClient(there, "ann", record, session_id=ann.session_id))
        ack = await ann.send(bob.user_id, "hello")
        got = await bob.wait_for_message("hello")
        assert (got["id"], got["seq"], got["at"]) == (ack["id"], ack["seq"], ack["at"])
        await tablet.wait_for_message("hello")
        await bob.request("read", {"with": ann.user_id, "seq": 1})
        for device in (ann, tablet):
            (receipt,) = await device.wait_for_event("receipt")
            assert receipt["read"] == 1
        bob.emit("typing", {"to": ann.user_id})
        assert await tablet.wait_for_event("typing") == [{"from": bob.user_id}]
        for device in (ann, bob, tablet):
            await device.complete()
        check(record, await stored_messages([ann, bob])).assert_clean()


@pytest.mark.parametrize("guide", [True, False], ids=["guide", "sync"])
async def test_who_comes_and_goes_elsewhere_is_seen(two: Fleet, guide: bool) -> None:
    here, there = (node.url for node in two.nodes)
    async with ChatClient(here, "bob", guide=guide) as bob:
        ann = await ChatClient(there, "ann").connect()
        await watch(bob, ann)
        await ann.close()
        await disconnected(bob, ann.user_id)
        bob.events.clear()
        await ann.connect()
        await connected(bob, ann.user_id)
        async with ChatClient(there, "cat", guide=True) as cat:
            (users,) = await cat.wait_for_event("users")
            assert {user["username"]: user["connected"] for user in users} == {"ann": True, "bob": True, "cat": True}
        await ann.close()


async def test_who_moves_to_another_node_was_never_away(fleet: Fleet, database: str, nats: NatsServer) -> None:
    here, there = (node.url for node in _two(fleet, database, nats, AMPLE).nodes)
    async with ChatClient(here, "bob", guide=True) as bob, ChatClient(there, "eve") as eve:
        ann = await ChatClient(there, "ann").connect()
        await connected(bob, ann.user_id)
        bob.events.clear()
        for _ in range(3):
            ann.cut()
            await ann.wait_ended()
            ann.url = here if ann.url == there else there
            await ann.connect()
        # Whoever leaves after her is known to have left: her own leaving would have come before that.
        await eve.close()
        await disconnected(bob, eve.user_id)
        assert ("user disconnected", [ann.user_id]) not in bob.events
        await ann.close()


async def test_the_people_of_a_killed_node_go_offline(two_with_short_leases: Fleet) -> None:
    here, there = two_with_short_leases.nodes
    async with ChatClient(here.url, "bob", guide=True) as bob, ChatClient(there.url, "ann") as ann:
        await connected(bob, ann.user_id)
        there.kill()
        await disconnected(bob, ann.user_id)
        (person,) = (await _directory(here.url, ann.user_id)).values()
        assert not person["connected"]
        assert person["lastSeen"] is not None


async def test_a_node_that_stood_still_has_its_people_again(two_with_short_leases: Fleet) -> None:
    here, there = two_with_short_leases.nodes
    async with ChatClient(here.url, "bob", guide=True) as bob, ChatClient(there.url, "ann") as ann:
        await connected(bob, ann.user_id)
        there.suspend()
        try:
            await disconnected(bob, ann.user_id)
        finally:
            there.resume()
        bob.events.clear()
        await connected(bob, ann.user_id)


async def test_a_node_that_leaves_in_peace_makes_nobody_flicker(
    fleet: Fleet, database: str, nats: NatsServer, tmp_path: Path, rng: random.Random
) -> None:
    """Its people come back at another node within the grace."""
    here, there = _two(fleet, database, nats, ENDLESS).nodes
    async with ChatClient(here.url, "bob", guide=True) as bob:
        ann = await ChatClient(there.url, "ann").connect()
        await connected(bob, ann.user_id)
        bob.events.clear()
        assert await asyncio.to_thread(there.terminate) == 0
        await ann.wait_ended()
        ann.url = here.url
        await ann.connect()
        async with ChatClient(here.url, "eve") as eve:
            await connected(bob, eve.user_id)
        assert ("user disconnected", [ann.user_id]) not in bob.events
        await ann.close()


async def _directory(url: str, *wanted: str) -> dict[str, dict[str, object]]:
    async with ChatClient(url, "dora") as dora:
        page = await dora.request("directory", {})
        return {person["userID"]: person for person in page["people"] if person["userID"] in wanted}


async def test_who_was_on_a_node_that_left_was_seen_when_it_left(two: Fleet) -> None:
    """And not at that node's last sign of life, which the one that takes over finds."""
    here, there = two.nodes
    ann = await ChatClient(there.url, "ann").connect()
    async with ChatClient(here.url, "bob") as bob:
        await watch(bob, ann)
        end = time.time_ns() // 1_000_000
        assert await asyncio.to_thread(there.terminate) == 0
        await disconnected(bob, ann.user_id)  # which is told once it's written down
        seen = (await _directory(here.url, ann.user_id))[ann.user_id]["lastSeen"]
        assert isinstance(seen, int)
        assert seen >= end


async def test_the_health_of_a_node_without_its_bus(own_nats: NatsServer, fleet: Fleet, database: str) -> None:
    fleet.add(database, own_nats.url)
    fleet.start()
    await until_health(fleet.url, {"status": "ok"})
    await asyncio.to_thread(own_nats.kill)
    await until_health(fleet.url, {"status": "degraded", "without": ["bus"]})
    await asyncio.to_thread(own_nats.start)
    await until_health(fleet.url, {"status": "ok"})


async def test_who_signs_out_is_signed_out_on_every_node(two: Fleet) -> None:
    here, there = (node.url for node in two.nodes)
    async with ChatClient(there, "bob") as bob:
        devices = await Devices(here, there).connect()
        assert await devices.sign_out() < AT_ONCE
        await bob.complete()


async def test_who_signs_out_while_the_bus_is_away_is_signed_out_all_the_same(
    own_nats: NatsServer, fleet: Fleet, database: str
) -> None:
    for _ in range(2):
        fleet.add(database, own_nats.url)
    fleet.start()
    here, there = (node.url for node in fleet.nodes)
    devices = await Devices(here, there).connect()
    await asyncio.to_thread(own_nats.kill)
    assert await devices.sign_out() < AT_ONCE
