"""Whether nodes hear each other: signs of life on a real bus, compared with a real registry."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio

from cluster.nats import NatsServer
from duologue.bus.envelope import FORMAT
from duologue.bus.nats import NatsBus
from duologue.domain.ports import Registry
from duologue.server import reach as reach_module
from duologue.server.reach import SILENT_PULSES, TOPIC, Reach
from duologue.store.postgres import PostgresStore
from tests.support.clock import SetClock

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(60)]

PATIENCE = 15.0
LEASE = 60.0
"""Seconds; renewed where a test does it only. A node whose lease is half over is known to nobody, so it has to be longer than a
test, stalls included ..."""

SHORT_LEASE = 8.0
"""... unless its end is waited for."""

NEVER = 3600.0


class Node:
    def __init__(self, url: str, namespace: str, registry: Registry) -> None:
        self.registry = registry
        self.said: list[bool] = []
        self.bus = NatsBus([url], namespace, self._bus_changed)
        self.reach = Reach(registry, self.bus, self.said.append)
        self._task: asyncio.Task[None]

    async def start(self) -> None:
        await self.registry.renew([])
        self.reach.start()
        await self.bus.start()
        self._task = asyncio.create_task(self.reach.run())

    async def die(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        await self.bus.close()

    def _bus_changed(self, works: bool) -> None:
        self.reach.bus_changed(works)

    def silent(self, other: Node) -> int | None:
        """For how many pulses that one has been silent; None if it isn't known."""
        return self.reach._silent.get(other.registry.node)


@pytest_asyncio.fixture
async def store(database: str) -> AsyncIterator[PostgresStore]:
    made = await PostgresStore.open(database, SetClock(), lambda batch: None, lambda error: None)
    yield made
    await made.close()


@pytest_asyncio.fixture
async def two(
    request: pytest.FixtureRequest, store: PostgresStore, own_nats: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Node]]:
    """Nodes that know each other, with a quicker pulse. The parameter is their lease, `LEASE` without."""
    monkeypatch.setattr(reach_module, "PULSE", 0.3)
    namespace = secrets.token_hex(4)
    nodes = [Node(own_nats.url, namespace, store.registry(getattr(request, "param", LEASE))) for _ in range(2)]
    for node in nodes:
        await node.start()
    await _until(lambda: None not in (nodes[0].silent(nodes[1]), nodes[1].silent(nodes[0])))
    yield nodes
    for node in nodes:
        await node.die()


async def _until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not true():
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("two", [SHORT_LEASE], indirect=True)
async def test_a_node_that_is_killed_is_missed_until_its_lease_is_half_over(two: list[Node]) -> None:
    """Until then nobody can know that it isn't out of reach."""
    one, other = two
    assert one.reach.without() == ()
    await other.registry.renew([])
    await other.die()
    await _until(lambda: one.reach.without() == ("part of the bus",))
    assert one.said[-1:] == [False]
    await _until(lambda: one.reach.without() == ())
    assert one.said[-2:] == [False, True]
    assert one.silent(other) is None


async def test_a_node_that_is_alive_and_not_heard_is_missed_until_it_is_heard(two: list[Node]) -> None:
    one, other = two
    other.bus.unsubscribe_topic(TOPIC)  # it hears nobody, and is heard
    await _until(lambda: other.reach.without() == ("part of the bus",))
    assert one.reach.without() == ()
    assert one.said.count(False) == 0
    await other.registry.renew([])
    other.reach.start()
    await _until(lambda: other.reach.without() == ())


async def test_a_node_whose_words_have_another_format_is_missed_until_it_speaks_ours(
    two: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    with monkeypatch.context() as next_release:
        send = other.bus._send
        next_release.setattr(other.bus, "_send", lambda subject, data: send(subject, bytes((FORMAT + 1,)) + data[1:]))
        await _until(lambda: one.reach.without() == ("part of the bus",))
        assert one.bus.foreign
        assert other.reach.without() == ()
    await other.registry.renew([])
    await _until(lambda: one.reach.without() == ())


async def test_a_node_that_leaves_in_peace_is_not_missed(two: list[Node]) -> None:
    one, other = two
    other.reach.leave()
    await other.registry.retire(NEVER)
    await _until(lambda: (one.silent(other) or 0) > SILENT_PULSES)
    assert one.reach.without() == ()
    assert False not in one.said


async def test_without_the_bus_nobody_is_missed_and_all_are_given_time_when_it_is_back(
    two: list[Node], own_nats: NatsServer
) -> None:
    one, other = two
    await asyncio.to_thread(own_nats.kill)
    await _until(lambda: one.reach.without() == ("bus",))
    await _until(lambda: (one.silent(other) or 0) > SILENT_PULSES)
    assert one.reach.without() == ("bus",)
    for node in two:
        await node.registry.renew([])
    await asyncio.to_thread(own_nats.start)
    await _until(lambda: one.said[-1] is True)
    assert one.reach.without() == ()


async def test_what_a_stranger_says_on_the_bus_is_harmless(two: list[Node]) -> None:
    one, other = two
    for data in (b"", b"+", b"-" + b"f" * 16, b"+\xff\xfe", b"x" * 1000):
        other.bus.publish_topic(TOPIC, data)
    await other.bus.settled()
    await _until(lambda: one.reach._newcomer)
    await _until(lambda: not one.reach._newcomer)
    assert set(one.reach._silent) == {other.registry.node}
    assert one.reach._left == set()
