"""Several nodes publish for one user, so hints overtake each other: that costs no read, and loses and repeats nothing."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duologue.bus.local import LocalBus
from duologue.server.hub import MAX_BACKLOG, Client, Hub
from duologue.server.transport import Frame

USER = "a" * 16
PATIENCE = 0.05


@dataclass(eq=False)
class Wire:
    """The part of a socket that the hub uses."""

    id: str
    sent: list[bytes] = field(default_factory=list)
    closed: str | None = None

    def send(self, frame: Frame) -> None:
        self.sent.append(frame.payload)

    def close(self, reason: str) -> None:
        self.closed = reason


@dataclass
class Owner:
    class User:
        id = USER

    user = User()


class Scene:
    """A hub with one user's sockets, which are live at version 0. `on_gap` only writes down who asked."""

    def __init__(self, sockets: int = 1, patience: float = PATIENCE) -> None:
        self.gaps: list[Client] = []
        self._news = asyncio.Event()
        self.hub = Hub(LocalBus(), self._gap, lambda: True, 1_000_000, patience)
        self.wires = [Wire(f"socket {n}") for n in range(sockets)]
        self.clients = [Client(cast("Any", wire), cast("Any", Owner()), b"session", syncs=True) for wire in self.wires]
        for client in self.clients:
            self.hub.attach(client)
            self.hub.go_live(client, 0)

    def hint(self, version: int, packet: bytes | None = None, exclude: str = "") -> None:
        self.hub.receive(USER, version, b"4" + (packet or b"%d" % version), exclude)

    async def until_gap(self, count: int) -> None:
        async with asyncio.timeout(10):
            while len(self.gaps) < count:
                self._news.clear()
                await self._news.wait()

    def _gap(self, client: Client) -> None:
        self.gaps.append(client)
        self._news.set()


def sent(wire: Wire) -> list[int]:
    return [int(packet[1:]) for packet in wire.sent]


def run(check: Callable[[], Any]) -> None:
    asyncio.run(check())


@given(order=st.permutations(range(1, 13)), repeats=st.lists(st.integers(1, 12), max_size=6), seed=st.integers(0, 99))
@settings(max_examples=200)
def test_any_order_ends_in_order_and_nothing_is_read(order: list[int], repeats: list[int], seed: int) -> None:
    async def check() -> None:
        scene = Scene(sockets=2, patience=60)
        hints = [*order, *repeats]
        random.Random(seed).shuffle(hints)
        for version in hints:
            scene.hint(version)
        assert [sent(wire) for wire in scene.wires] == [list(range(1, 13))] * 2
        assert scene.gaps == []
        assert [client.ahead for client in scene.clients] == [None, None]
        assert scene.hub._waiting == {}

    run(check)


@given(lost=st.sets(st.integers(1, 12), min_size=1, max_size=4), order=st.permutations(range(1, 13)))
@settings(max_examples=20)
def test_only_what_is_lost_is_read_for(lost: set[int], order: list[int]) -> None:
    """The store's answer is played by `go_live`, with the version that the store would be at."""

    async def check() -> None:
        scene = Scene(patience=0.005)
        (client,), (wire,) = scene.clients, scene.wires
        for version in order:
            if version not in lost:
                scene.hint(version)
        assert sent(wire) == list(range(1, min(lost)))
        if max(set(range(1, 13)) - lost) < min(lost):
            assert client.ahead is None  # nothing came after it, so nothing tells
            return
        await scene.until_gap(1)
        assert client.backlog is not None
        scene.hub.go_live(client, max(lost))
        assert sent(wire) == [*range(1, min(lost)), *range(max(lost) + 1, 13)]
        assert scene.gaps == [client]

    run(check)


async def _told_before() -> None:
    scene = Scene(patience=60)
    scene.hint(2)
    scene.hint(0, b"99")  # an introduction, or presence
    assert sent(scene.wires[0]) == [99]
    scene.hint(1)
    assert sent(scene.wires[0]) == [99, 1, 2]


def test_what_is_not_stored_waits_for_nothing() -> None:
    run(_told_before)


async def _own() -> None:
    scene = Scene(sockets=2, patience=60)
    one, other = scene.clients
    scene.hub.advance(one, 2)  # its own message was acknowledged before the hint of somebody else's came
    scene.hint(2, exclude=one.socket.id)
    scene.hint(1)
    assert [sent(wire) for wire in scene.wires] == [[1], [1, 2]]
    assert (one.version, other.version) == (2, 2)


def test_the_answer_to_ones_own_message_counts_as_its_hint() -> None:
    run(_own)


async def _each_for_itself() -> None:
    scene = Scene(sockets=2)
    gone, other = scene.clients
    scene.hint(2)
    scene.hub.detach(gone)
    assert list(scene.hub._waiting) == [other]
    await scene.until_gap(1)
    assert scene.gaps == [other]
    assert scene.hub._waiting == {}


def test_who_leaves_waits_no_longer() -> None:
    run(_each_for_itself)


async def _bound() -> None:
    scene = Scene(patience=60)
    for version in range(2, MAX_BACKLOG + 3):
        scene.hint(version)
    assert scene.gaps == scene.clients


def test_what_waits_is_bounded() -> None:
    run(_bound)


async def _behind() -> None:
    scene = Scene(sockets=2, patience=60)
    scene.hint(1)
    scene.hub.behind(USER, 1)
    assert scene.gaps == []
    scene.hint(3)
    scene.hub.behind(USER, 3)
    assert scene.gaps == scene.clients
    assert scene.hub.lowest(USER) is None
    scene.hub.go_live(scene.clients[0], 2)
    assert sent(scene.wires[0]) == [1, 3]


def test_what_the_store_says_ends_the_patience() -> None:
    run(_behind)


async def _impatient() -> None:
    scene = Scene(patience=0.0)
    scene.hint(2)
    assert scene.gaps == scene.clients
    assert scene.hub._alarm is None


def test_on_a_bus_that_keeps_the_order_a_gap_is_a_loss() -> None:
    run(_impatient)


@pytest.mark.asyncio
async def test_one_timer_serves_all_who_wait() -> None:
    scene = Scene(sockets=50)
    scene.hint(2)
    assert len(scene.hub._waiting) == 50
    await scene.until_gap(50)
    assert scene.hub._alarm is None
