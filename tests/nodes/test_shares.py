"""The limits of a user with sockets on several nodes: real buses on a real NATS, and what is left of a node otherwise."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import msgspec
import pytest
import pytest_asyncio
import uvloop

from cluster.nats import NatsServer
from duologue.actions.send import Senders
from duologue.bus.nats import NatsBus
from duologue.domain.errors import Code
from duologue.domain.model import User
from duologue.domain.ports import Store
from duologue.server.hub import Client, Hub
from duologue.server.shares import Shares
from tests.nodes.fleet import Fleet
from tests.support.client import ChatClient, ConnectionLost
from tests.support.inside import LIMITS, MovedClock

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

ANN = User("a" * 16, "ann")
ALLOWED = 12
LIMIT = 3
LEASE = 1.5
"""Seconds; with 30, the default, the same takes 20 times as long."""


class Wire:
    """A socket of which only its closing is looked at."""

    connected = True

    def __init__(self) -> None:
        self.id = secrets.token_hex(4)
        self.closed: str | None = None

    def close(self, reason: str) -> None:
        self.closed = reason


class Node:
    def __init__(self, server: NatsServer, namespace: str, clock: MovedClock) -> None:
        limits = msgspec.structs.replace(LIMITS, message_rate=1e-6, message_burst=ALLOWED, max_user_connections=LIMIT)
        self.bus = NatsBus([server.url], namespace)
        self.hub = Hub(self.bus, lambda _: None, lambda: False, LIMITS.page_bytes)
        self.bus.connect(self.hub.receive)
        self.shares = Shares(self.hub, self.bus, clock, limits)
        self.shares.start()
        self.senders = Senders(cast("Store", cast("Any", self)), clock, limits)
        self.clients: list[Client] = []

    def submit(self, _: object) -> None:
        """The store of this node."""

    def come(self) -> Wire:
        """A device of Ann's."""
        wire = Wire()
        sender = self.hub.sender_of(ANN.id) or self.senders.make(ANN)
        client = Client(cast("Any", wire), sender, b"session", syncs=True)
        self.hub.attach(client)
        self.shares.came(ANN.id)
        self.clients.append(client)
        return wire

    def leave(self) -> None:
        self.hub.detach(self.clients.pop())
        self.shares.went(ANN.id)

    def allows(self) -> int:
        """How many events Ann may send now."""
        for count in range(1000):
            if self.clients[0].sender.spend() is not None:
                return count
        raise AssertionError("there is no limit")


@pytest_asyncio.fixture
async def nodes(nats: NatsServer, clock: MovedClock) -> AsyncIterator[list[Node]]:
    namespace = secrets.token_hex(4)
    made = [Node(nats, namespace, clock) for _ in range(3)]
    for node in made:
        await node.bus.start()
    yield made
    for node in made:
        await node.bus.close()


@pytest.fixture
def clock() -> MovedClock:
    return MovedClock()


def pytest_asyncio_loop_factories(item: pytest.Item) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


async def _until(true: Callable[[], bool]) -> None:
    """Within the second in which a limit has to act, and those in which a machine may stand still."""
    async with asyncio.timeout(5.0):
        while not true():
            await asyncio.sleep(0.005)


async def test_each_node_grants_its_share_and_all_of_it_when_the_others_are_gone(nodes: list[Node]) -> None:
    one, two, three = nodes
    for node in nodes:
        node.come()
    await _until(lambda: all(node.shares.elsewhere(ANN.id) == 2 for node in nodes))
    assert [node.allows() for node in nodes] == [ALLOWED // 3] * 3
    two.leave()
    three.leave()
    await _until(lambda: one.shares.elsewhere(ANN.id) == 0)
    assert one.clients[0].sender._burst == ALLOWED
    assert [len(node.shares) for node in nodes] == [0, 0, 0]


async def test_sockets_are_counted_together(nodes: list[Node]) -> None:
    one, two, _ = nodes
    first = [one.come(), one.come()]
    second = two.come()
    await _until(lambda: two.shares.elsewhere(ANN.id) == 2 and one.shares.elsewhere(ANN.id) == 1)
    assert [wire.closed for wire in (*first, second)] == [None] * 3
    one.come()
    await _until(lambda: two.shares.elsewhere(ANN.id) == 3)
    one.leave()
    await _until(lambda: two.shares.elsewhere(ANN.id) == 2)


async def test_the_first_socket_on_one_node_too_many_is_closed_and_no_other(nodes: list[Node]) -> None:
    one, two, _ = nodes
    there = [one.come() for _ in range(LIMIT)]
    surplus = two.come()
    await _until(lambda: surplus.closed is not None)
    assert surplus.closed == Code.OVERLOADED
    assert [wire.closed for wire in there] == [None] * LIMIT


async def test_a_node_that_says_nothing_any_more_is_forgotten(nodes: list[Node], clock: MovedClock) -> None:
    one, two, three = nodes
    for node in nodes:
        node.come()
    await _until(lambda: all(node.shares.elsewhere(ANN.id) == 2 for node in nodes))
    await two.bus.close()
    clock.ahead += LIMITS.presence_lease / 2
    three.shares.refresh(ANN.id)
    three.come()
    await _until(lambda: one.shares.elsewhere(ANN.id) == 3)
    clock.ahead += LIMITS.presence_lease / 2 + 1
    assert one.shares.elsewhere(ANN.id) == 2
    assert one.clients[0].sender._burst == ALLOWED // 2


async def test_nodes_that_could_not_hear_each_other_at_first_ask_again(nodes: list[Node], clock: MovedClock) -> None:
    """As if the bus had learnt of each subscription only after the other node's notice."""
    one, two, _ = nodes
    for node in (one, two):
        node.come()
        await node.bus.settled()
    await _until(lambda: one.shares.elsewhere(ANN.id) == two.shares.elsewhere(ANN.id) == 1)
    for node in (one, two):
        node.shares._others.clear()
    one.shares.ask(ANN.id)
    await _until(lambda: one.shares.elsewhere(ANN.id) == two.shares.elsewhere(ANN.id) == 1)


async def test_what_a_stranger_says_on_the_bus_is_harmless(nodes: list[Node]) -> None:
    one, two, _ = nodes
    one.come()
    await one.bus.settled()
    for data in (b"", b"x" * 5, b"x" * 400, b"node-xyz" + b"\x00\x00\x00\x01\xff"):
        two.bus.notify(ANN.id, data)
    await _until(lambda: one.shares.elsewhere(ANN.id) == 1)


async def test_the_limit_of_connections_holds_over_nodes(fleet: Fleet, database: str, nats: NatsServer) -> None:
    for _ in range(2):
        fleet.add(database, nats.url, "--max-user-connections", f"{LIMIT}")
    fleet.start()
    here, there = (node.url for node in fleet.nodes)
    ann = await ChatClient(here, "ann").connect()
    more = [ChatClient(here, "ann", session_id=ann.session_id) for _ in range(LIMIT - 1)]
    for device in more:
        await device.connect()
    surplus = ChatClient(there, "ann", session_id=ann.session_id)
    try:
        await surplus.connect()
        await surplus.wait_ended(timeout=5.0)
    except ConnectionLost:
        pass
    more[0].cut()
    await surplus.connect_surely()
    for device in (ann, more[1], surplus):
        await device.complete()
        await device.close()


async def test_the_sockets_of_a_killed_node_count_no_longer_than_its_lease(
    fleet: Fleet, database: str, nats: NatsServer
) -> None:
    """The user's device that comes back from there is let in at once then."""
    for _ in range(2):
        fleet.add(database, nats.url, "--max-user-connections", "2", "--presence-lease", f"{LEASE}")
    fleet.start()
    here, there = fleet.nodes
    phone = await ChatClient(there.url, "ann").connect()
    async with ChatClient(here.url, "ann", session_id=phone.session_id) as laptop:
        start = time.monotonic()
        await asyncio.to_thread(there.kill)
        await phone.wait_ended()
        phone.url = here.url
        await phone.connect_surely()
        assert time.monotonic() - start < LEASE + 5  # it tries again after a pause
        await laptop.complete()
        await phone.close()
