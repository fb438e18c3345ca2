"""What can happen to NATS (F18): it's away, killed, silent, garbled; the node goes on, and hears the others again afterwards."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import nats as nats_py
import pytest

from cluster.nats import NatsServer
from duologue.bus import nats as bus_module
from duologue.bus import nats_link as link_module
from duologue.bus.nats import NatsBus
from tests.support.proxy import Proxy

from .conftest import ANN, BOB, PATIENCE, Got, Node

pytestmark = pytest.mark.asyncio


@asynccontextmanager
async def nodes(*urls: str) -> AsyncIterator[list[Node]]:
    """A node for each URL, all of one namespace."""
    namespace = secrets.token_hex(4)
    async with AsyncExitStack() as stack:
        made = []
        for url in urls:
            bus = NatsBus(url.split(","), namespace)
            node = Node(bus)
            await bus.start()
            stack.push_async_callback(bus.close)
            made.append(node)
        yield made


def nats_bus(node: Node) -> NatsBus:
    assert isinstance(node.bus, NatsBus)
    return node.bus


async def until_healthy(*wanted: Node, healthy: bool = True) -> None:
    async with asyncio.timeout(PATIENCE):
        while any(nats_bus(node).healthy != healthy for node in wanted):
            await asyncio.sleep(0.02)


async def test_a_killed_server_comes_back_and_so_do_the_subscriptions(own_nats: NatsServer) -> None:
    async with nodes(own_nats.url, own_nats.url) as (here, there):
        here.bus.subscribe(ANN)
        there.bus.subscribe(BOB)
        await there.bus.settled()
        await asyncio.to_thread(own_nats.kill)
        await until_healthy(here, there, healthy=False)
        here.bus.publish(ANN, 1, b"one's own sockets don't need it")
        here.bus.publish(BOB, 1, b"lost")
        assert here.got == [Got(ANN, 1, b"one's own sockets don't need it")]
        assert nats_bus(here).dropped == 2
        assert not here.bus.wanted(BOB)
        assert here.bus.wanted(ANN)
        async with asyncio.timeout(1):
            await there.bus.settled()
        there.bus.subscribe(ANN)
        await asyncio.to_thread(own_nats.start)
        await until_healthy(here, there)
        await there.bus.settled()
        here.bus.publish(BOB, 2, b"again")
        here.bus.publish(ANN, 2, b"subscribed meanwhile")
        assert await there.until_got(2) == [Got(BOB, 2, b"again"), Got(ANN, 2, b"subscribed meanwhile")]


async def test_a_server_that_is_away_at_the_start_is_found_later(
    own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus_module, "START_TIMEOUT", 0.2)
    await asyncio.to_thread(own_nats.kill)
    async with nodes(own_nats.url) as (node,):
        assert not nats_bus(node).healthy
        node.bus.subscribe(ANN)
        node.bus.publish(ANN, 1, b"here")
        assert node.got == [Got(ANN, 1, b"here")]
        await asyncio.to_thread(own_nats.start)
        await until_healthy(node)
        async with nodes(own_nats.url) as (stranger,):
            nats_bus(stranger)._prefix = nats_bus(node)._prefix
            await node.bus.settled()
            stranger.bus.publish(ANN, 2, b"there")
            assert await node.until_got(2) == [Got(ANN, 1, b"here"), Got(ANN, 2, b"there")]


async def test_a_silent_server_is_given_up_and_taken_back(nats: NatsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "PING_INTERVAL", 0.2)
    monkeypatch.setattr(link_module, "SILENCE", 0.5)
    async with Proxy(nats.port) as proxy, nodes(proxy.url.replace("http", "nats"), nats.url) as (here, there):
        there.bus.subscribe(BOB)
        here.bus.subscribe(ANN)
        await there.bus.settled()
        proxy.to_client.swallow = proxy.to_server.swallow = True
        await until_healthy(here, healthy=False)
        proxy.heal()
        await proxy.cut()
        await until_healthy(here)
        await here.bus.settled()
        here.bus.publish(BOB, 1, b"x")
        there.bus.publish(ANN, 1, b"y")
        assert await there.until_got(1) == [Got(BOB, 1, b"x")]
        assert await here.until_got(1) == [Got(ANN, 1, b"y")]


async def test_what_no_node_can_have_written_is_counted_and_dropped(nats: NatsServer) -> None:
    async with nodes(nats.url) as (node,):
        bus = nats_bus(node)
        bus.subscribe(BOB)
        await bus.settled()
        stranger = await nats_py.connect(nats.url)
        head = b"\x01" + b"\0" * 8
        bad = [b"", b"\x01short", head + b"\xff\0packet", head + b"\0\x09short", head + b"\0\x01\xffpacket"]
        for data in bad:
            await stranger.publish(f"{bus._prefix}u.{BOB}", data)
        await stranger.publish(f"{bus._prefix}u.{BOB}", b"\x01" + b"\0" * 7 + b"\x01\0\0good")
        assert await node.until_got(1) == [Got(BOB, 1, b"good")]
        assert (bus.malformed, bus.foreign) == (len(bad), 0)
        await stranger.close()


async def test_a_slow_server_costs_hints_not_memory(
    nats: NatsServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(bus_module, "MAX_OUTBOX", 1_000_000)
    async with Proxy(nats.port) as proxy, nodes(proxy.url.replace("http", "nats")) as (node,):
        bus = nats_bus(node)
        with caplog.at_level(logging.WARNING, logger="duologue.bus.nats"):
            for version in range(3000):
                bus.publish(BOB, version, b"x" * 1000)
        assert bus.dropped == 3000 - 1_000_000 // 1011
        assert [record.getMessage() for record in caplog.records if "too slow" in record.getMessage()] != []
        assert len([record for record in caplog.records if "too slow" in record.getMessage()]) == 1


async def test_a_packet_too_large_for_the_server_costs_itself_only(nats: NatsServer) -> None:
    async with nodes(nats.url, nats.url) as (here, there):
        there.bus.subscribe(BOB)
        await there.bus.settled()
        here.bus.publish(BOB, 1, b"x" * 2_000_000)
        here.bus.publish(BOB, 2, b"y")
        assert await there.until_got(1) == [Got(BOB, 2, b"y")]
        assert nats_bus(here).dropped == 1


async def test_a_cluster_loses_a_server(tmp_path: Path) -> None:
    with (
        NatsServer(tmp_path / "1") as first,
        NatsServer(tmp_path / "2", routes=[first]) as second,
        NatsServer(tmp_path / "3", routes=[first, second]) as third,
    ):
        urls = [server.url for server in (first, second, third)]
        async with nodes(f"{urls[0]},{urls[1]}", f"{urls[1]},{urls[2]}") as (here, there):
            there.bus.subscribe(BOB)
            await there.bus.settled()
            await _until_heard(here, there, 1)
            await asyncio.to_thread(first.kill)
            await _until_heard(here, there, 1000)
            await asyncio.to_thread(third.kill)
            await _until_heard(here, there, 2000)


async def _until_heard(here: Node, there: Node, version: int) -> None:
    """Publish until something gets through: routes between servers take a moment, and what is published meanwhile is lost."""
    before = len(there.got)
    async with asyncio.timeout(PATIENCE):
        while len(there.got) == before:
            version += 1
            here.bus.publish(BOB, version, b"x")
            await asyncio.sleep(0.05)
