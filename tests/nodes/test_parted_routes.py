"""The bus itself falls apart: two NATS servers of a cluster don't reach each other, or hear of each other's subscriptions late,
while every node's own connection is well. What is on the way between them is lost, and no node is told."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from duologue.server.comparison import ALERT_INTERVAL, CALM_INTERVAL
from duologue.server.reach import PULSE, SILENT_PULSES
from duologue.server.second_look import SECOND_LOOK
from tests.nodes.devices import AT_ONCE, Devices
from tests.nodes.fleet import Fleet, Trouble, talk_through, until_health
from tests.nodes.people import disconnected, watch, watching
from tests.support.client import ChatClient
from tests.support.routes import Servers, parted_servers

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

NOTICED = (SILENT_PULSES + 2) * PULSE
"""Seconds until a node knows that others are out of reach, with room to spare."""

SOON = 8.0
"""Seconds in which a node without part of the bus has what was said there: `ALERT_INTERVAL`, with room to spare."""

SLOW = 0.4
"""Seconds that anything takes on a slow route."""

LONG = 40.0
"""Seconds: longer than the lease of presence."""

APART: dict[str, object] = {"status": "degraded", "without": ["part of the bus"]}
WELL: dict[str, object] = {"status": "ok"}


@pytest_asyncio.fixture
async def servers(tmp_path: Path) -> AsyncIterator[Servers]:
    async with parted_servers(tmp_path) as made:
        yield made


async def _two(servers: Servers, fleet: Fleet, database: str, *arguments: str) -> tuple[str, str]:
    """A node at each server, each of which knows of the other."""
    here, there = (fleet.add(database, each.url, *arguments) for each in (servers.first, servers.second))
    await asyncio.to_thread(fleet.start)
    for node in (here, there):
        await asyncio.to_thread(node.wait_for_log, "other nodes that are alive: 1")
        await until_health(node.url, WELL)
    return here.url, there.url


async def test_nodes_notice_it_say_so_and_read_the_store_instead(servers: Servers, fleet: Fleet, database: str) -> None:
    here, there = await _two(servers, fleet, database)
    bob = await ChatClient(here, "bob").connect()
    phone = await ChatClient(here, "ann").connect()
    laptop = await ChatClient(there, "ann", session_id=phone.session_id).connect()
    await laptop.send(bob.user_id, "before")
    await bob.wait_for_message("before")
    await servers.part()
    await laptop.send(bob.user_id, "lost on the way")
    start = time.monotonic()
    for node in (here, there):
        await until_health(node, APART)
    assert time.monotonic() - start < NOTICED
    await bob.wait_for_message("lost on the way", timeout=SOON)
    await laptop.send(bob.user_id, "in the know")
    await bob.wait_for_message("in the know", timeout=SOON)
    for device in (phone, laptop):
        device.may_be_dismissed = True
    await phone.request("sign out", {})
    await laptop.wait_ended(timeout=SOON)
    await servers.heal()
    for node in (here, there):
        await until_health(node, WELL)
    await bob.close()


async def test_who_signs_out_is_signed_out_before_anybody_notices(
    servers: Servers, fleet: Fleet, database: str
) -> None:
    here, there = await _two(servers, fleet, database)
    devices = await Devices(here, there).connect()
    await servers.part()
    assert await devices.sign_out() < AT_ONCE


async def test_who_came_and_went_meanwhile_is_seen_as_they_are(servers: Servers, fleet: Fleet, database: str) -> None:
    here, there = await _two(servers, fleet, database, "--presence-grace", "0.3")
    ann = await ChatClient(there, "ann").connect()
    bob = await watching(here, False, ann)
    await servers.part()
    for node in (here, there):
        await until_health(node, APART)
    await ann.close()
    async with ChatClient(there, "dan", guide=True) as dan:  # wait until the registry has it
        (users,) = await dan.wait_for_event("users")
        if any(user["userID"] == ann.user_id and user["connected"] for user in users):
            await disconnected(dan, ann.user_id, 10)
    await servers.heal()
    await disconnected(bob, ann.user_id, NOTICED)
    await bob.close()


async def test_who_comes_or_goes_unheard_is_found_within_a_lease(servers: Servers, fleet: Fleet, database: str) -> None:
    """Nobody is told that a hint is lost, and presence has no numbers that would show it."""
    here, there = await _two(servers, fleet, database, "--presence-grace", "0.3", "--presence-lease", "1.5")
    ann = await ChatClient(there, "ann").connect()
    bob = await watching(here, False, ann)
    await servers.part()
    await ann.close()
    await disconnected(bob, ann.user_id, NOTICED - PULSE)
    await bob.close()


async def test_what_is_published_before_the_other_server_knows_of_a_subscription_is_found(
    servers: Servers, fleet: Fleet, database: str
) -> None:
    here, there = await _two(servers, fleet, database, "--presence-grace", "0.1")
    bob = await ChatClient(there, "bob").connect()
    ann = await ChatClient(here, "ann").connect()
    cat = await ChatClient(there, "cat").connect()
    await bob.close()
    servers.route.to_server.delay = servers.route.to_client.delay = SLOW
    await bob.connect()
    start = time.monotonic()
    await ann.send(bob.user_id, "welcome")
    await bob.wait_for_message("welcome", timeout=2 * SECOND_LOOK + SOON)
    await watch(ann, cat)
    await cat.close()
    await disconnected(ann, cat.user_id, 2 * SECOND_LOOK + SOON)
    assert time.monotonic() - start < CALM_INTERVAL / 2  # else the comparison of all may have found it
    for client in (ann, bob):
        await client.close()


def _parting(servers: Servers, seconds: float, *, silently: bool = False) -> Trouble:
    """The route is refused, or swallows everything without a word, for that long."""

    async def part() -> None:
        if silently:
            servers.route.to_server.swallow = servers.route.to_client.swallow = True
        else:
            await servers.part()
        try:
            await asyncio.sleep(seconds)
        finally:
            await servers.route.cut()  # where bytes are missing no connection can go on
            await servers.heal()

    return part


def _three(servers: Servers, fleet: Fleet, database: str) -> None:
    for server in (servers.first, servers.second, servers.second):
        fleet.add(database, server.url)


async def test_routes_are_parted_while_people_talk(
    servers: Servers, fleet: Fleet, database: str, rng: random.Random
) -> None:
    _three(servers, fleet, database)
    await asyncio.to_thread(fleet.start)
    await talk_through(fleet, rng, _parting(servers, NOTICED + 2 * ALERT_INTERVAL), _parting(servers, PULSE))


@pytest.mark.torture
@pytest.mark.timeout(900)
async def test_routes_are_parted_again_and_again_for_short_and_for_long(
    servers: Servers, fleet: Fleet, database: str, rng: random.Random
) -> None:
    _three(servers, fleet, database)
    await asyncio.to_thread(fleet.start)
    partings = [_parting(servers, rng.uniform(0.1, 12), silently=rng.random() < 0.5) for _ in range(12)]
    longest = [_parting(servers, LONG, silently=silently) for silently in (False, True)]
    await talk_through(fleet, rng, *partings, *longest)
